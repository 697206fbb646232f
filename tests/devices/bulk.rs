//! Whole fleets: brought line by line, taken page by page, and brought again.

use iotflow::identity::device_keys;
use iotflow::operations::bulk::{self, Format, Gone, ImportError, Listen, Made, Options, Report};
use iotflow::operations::credentials::Wanted;
use iotflow::operations::groups;
use tokio_postgres::Client;

use crate::registry::group;
use crate::support::judge::{number, texts};
use crate::trial::{Trial, ada};

/// Takes what is told, as long as it listens.
#[derive(Default)]
pub struct Listener {
    pub made: Vec<Made>,
    /// How many transactions it hears of before it leaves; `None` for all.
    leaves_after: Option<usize>,
    heard: usize,
}

impl Listen for Listener {
    async fn tell(&mut self, made: Vec<Made>) -> Result<(), Gone> {
        if self.leaves_after == Some(self.heard) {
            return Err(Gone::Left);
        }
        self.heard += 1;
        self.made.extend(made);
        Ok(())
    }
}

async fn import(sql: &mut Client, format: Format, data: &str, options: Options) -> Report {
    import_with(sql, format, data, options).await.0
}

async fn import_with(sql: &mut Client, format: Format, data: &str, options: Options) -> (Report, Vec<Made>) {
    let mut listener = Listener::default();
    let report = bulk::import(sql, &ada(), format, data.as_bytes(), options, &mut listener).await;
    (report.expect("it is a file"), listener.made)
}

fn counts(report: &Report) -> [u64; 4] {
    [report.created, report.updated, report.unchanged, report.failed]
}

async fn export(sql: &Client, format: Format) -> String {
    let (mut text, mut after) = (Vec::new(), None);
    loop {
        let (page, next) = bulk::export(sql, format, after.as_deref()).await.expect("a page");
        text.extend(page);
        match next {
            Some(_) => after = next,
            None => return String::from_utf8(text).expect("UTF-8"),
        }
    }
}

const BOTH: Options = Options {
    dry_run: false,
    credentials: Wanted { mqtt: true, api_key: true },
};

const FLEET: &str = "device_id,name,type,tags,groups,metadata\n\
    a,\"Bob's, \"\"sensor\"\"\",temp > 30,red;Ünit\\;7,north;south,\"{\"\"x\"\": [1, null]}\"\n\
    b,=1+1,,,,\n\
    c,,,,north,\n";

#[tokio::test]
async fn what_was_exported_is_taken_again_and_is_the_same() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    let report = import(&mut sql, Format::Csv, FLEET, Options::default()).await;
    assert_eq!(counts(&report), [3, 0, 0, 0], "{report:?}");
    assert_eq!(
        texts(&sql, "SELECT unnest(tags) FROM devices WHERE device = 'a'").await,
        ["red", "Ünit;7"]
    );
    // More than a page, and a group that nobody chooses the members of.
    let many: String = (0..2_345)
        .map(|n| format!("{{\"device_id\":\"m{n:04}\",\"tags\":[\"many\"]}}\n"))
        .collect();
    assert_eq!(import(&mut sql, Format::Ndjson, &many, Options::default()).await.created, 2_345);
    sql.execute("INSERT INTO device_groups (group_id, match_tag) VALUES ('dynamic', 'many')", &[])
        .await
        .expect("it is ours");
    for format in [Format::Csv, Format::Ndjson] {
        let first = export(&sql, format).await;
        assert_eq!(first.lines().count(), 2_348 + usize::from(format == Format::Csv));
        let again = import(&mut sql, format, &first, Options::default()).await;
        assert_eq!(counts(&again), [0, 0, 2_348, 0], "{:?}", again.faults);
        // And by an installation that has none of them.
        let other = Trial::start().await;
        let mut other = other.sql().await;
        assert_eq!(
            counts(&import(&mut other, format, &first, Options::default()).await),
            [2_348, 0, 0, 0]
        );
        assert_eq!(export(&other, format).await, first);
    }
    assert_eq!(
        number(&sql, "SELECT count(*) FROM device_group_members WHERE group_id = 'dynamic'").await,
        2_345
    );
}

#[tokio::test]
async fn what_a_line_does_not_say_stays_and_a_deleted_device_comes_back() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    import(&mut sql, Format::Csv, FLEET, Options::default()).await;
    let report = import(&mut sql, Format::Csv, "name,device_id\nNew,a\n,b\n", Options::default()).await;
    assert_eq!(counts(&report), [0, 2, 0, 0]);
    let groups_of_a = "SELECT group_id FROM device_group_members JOIN devices USING (device_id) WHERE device = 'a' ORDER BY 1";
    assert_eq!(texts(&sql, groups_of_a).await, ["north", "south"]);
    assert_eq!(
        number(
            &sql,
            "SELECT count(*) FROM devices WHERE device = 'b' AND display_name IS NULL AND revision = 2"
        )
        .await,
        1
    );
    let report = import(
        &mut sql,
        Format::Ndjson,
        "{\"device_id\":\"a\",\"groups\":[\"west\"]}",
        Options::default(),
    )
    .await;
    assert_eq!(counts(&report), [0, 1, 0, 0]);
    assert_eq!(texts(&sql, groups_of_a).await, ["west"]);
    sql.execute("UPDATE devices SET deleted_at = now() WHERE device = 'c'", &[])
        .await
        .expect("it is ours");
    assert_eq!(
        counts(&import(&mut sql, Format::Ndjson, "{\"device_id\":\"c\"}", Options::default()).await),
        [1, 0, 0, 0]
    );
    assert_eq!(number(&sql, "SELECT count(*) FROM devices WHERE deleted_at IS NULL").await, 3);
}

#[tokio::test]
async fn every_line_is_judged_and_a_dry_run_changes_nothing() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    sql.execute("INSERT INTO device_groups (group_id, match_tag) VALUES ('dynamic', 'x')", &[])
        .await
        .expect("it is ours");
    let file = "device_id,name,groups\n\
        a,one,north\n\
        b,two,dynamic\n\
        a,three,\n\
        b/c,four,\n\
        aa:bb,five,\n\
        g,six,no group\n";
    let options = Options {
        dry_run: true,
        credentials: Wanted {
            mqtt: true,
            api_key: false,
        },
    };
    let (dry, made) = import_with(&mut sql, Format::Csv, file, options).await;
    assert_eq!(counts(&dry), [1, 0, 0, 5]);
    let told: Vec<(u64, &str)> = dry.faults.iter().map(|fault| (fault.line, fault.reason.as_str())).collect();
    for ((line, reason), (expected, words)) in told.iter().zip([
        (3, "the members of dynamic follow"),
        (4, "a is on line 2 already"),
        (5, "\"b/c\": a device id is"),
        (6, "a colon cannot have a password"),
        (7, "group \"no group\""),
    ]) {
        assert!(*line == expected && reason.contains(words), "{told:?}");
    }
    assert!(made.is_empty());
    for table in ["devices", "device_group_members", "broker_users", "audit_log"] {
        assert_eq!(number(&sql, &format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    let (wet, made) = import_with(&mut sql, Format::Csv, file, Options { dry_run: false, ..options }).await;
    assert_eq!((counts(&wet), made.len()), ([1, 0, 0, 5], 1), "what makes sense is taken");
    assert_eq!(texts(&sql, "SELECT username FROM broker_users").await, ["a"]);
    assert!(
        bulk::import(
            &mut sql,
            &ada(),
            Format::Csv,
            b"id,name\n",
            Options::default(),
            &mut Listener::default()
        )
        .await
        .is_err()
    );
}

#[tokio::test]
async fn credentials_are_made_for_those_that_have_none_with_one_change_at_the_broker() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    groups::create(&mut sql, &ada(), &group("north"), &Default::default())
        .await
        .expect("it is made");
    let version = "SELECT version FROM broker_access";
    let before = number(&sql, version).await;
    let file: String = (0..300).map(|n| format!("{{\"device_id\":\"m{n}\"}}\n")).collect();
    let (first, made) = import_with(&mut sql, Format::Ndjson, &file, BOTH).await;
    assert_eq!((first.created, made.len()), (300, 300));
    assert_eq!(number(&sql, version).await - before, 1);
    let Made { line, id, issued } = &made[17];
    assert_eq!((*line, id.as_str()), (18, "m17"));
    assert_eq!(issued.mqtt.as_ref().expect("a login").username.as_str(), id.as_str());
    let holder = device_keys::verify(&sql, issued.api_key.as_ref().expect("a key").reveal())
        .await
        .expect("it is taken");
    assert_eq!(&holder.id, id);
    let (again, made) = import_with(&mut sql, Format::Ndjson, &file, BOTH).await;
    assert_eq!((again.unchanged, made.len()), (300, 0), "who has credentials keeps them");
    assert_eq!(number(&sql, "SELECT count(*) FROM broker_users WHERE role = 'device'").await, 300);
}

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|n| format!("{{\"device_id\":\"m{n:04}\"}}\n")).collect()
}

/// Those who have credentials, by id.
const HAVING: &str = "SELECT device FROM devices JOIN device_keys USING (device_id) JOIN broker_users ON username = device ORDER BY 1";

#[tokio::test]
async fn an_import_that_ends_early_says_where_and_nobody_has_credentials_that_were_not_told() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    let told = |made: &[Made]| -> Vec<String> { made.iter().map(|made| made.id.as_str().to_owned()).collect() };
    // Whoever asked for it leaves.
    let mut listener = Listener {
        leaves_after: Some(1),
        ..Listener::default()
    };
    let file = lines(0..2_500);
    let report = bulk::import(&mut sql, &ada(), Format::Ndjson, file.as_bytes(), BOTH, &mut listener).await;
    let report = report.expect("it is a file");
    let ended = report.ended.as_ref().expect("it ended early");
    assert_eq!((counts(&report), ended.line, ended.lines), ([1_000, 0, 0, 0], 1_001, 1_500));
    assert!(matches!(ended.error, ImportError::Gone(_)), "{ended:?}");
    assert_eq!(texts(&sql, HAVING).await, told(&listener.made));

    // The database refuses to go on in the middle of the second thousand.
    sql.batch_execute("ALTER TABLE broker_users ADD CONSTRAINT trial CHECK (username <> 'm1700')")
        .await
        .expect("it is ours");
    let (report, made) = import_with(&mut sql, Format::Ndjson, &file, BOTH).await;
    let ended = report.ended.as_ref().expect("it ended early");
    assert_eq!((counts(&report), ended.line, ended.lines), ([0, 0, 1_000, 0], 1_001, 1_500));
    assert!(made.is_empty() && matches!(ended.error, ImportError::User(_)), "{ended:?}");
    assert_eq!(texts(&sql, HAVING).await, told(&listener.made));

    // And at the commit itself: what was told for these lines is not good, which the report says.
    sql.batch_execute(
        "ALTER TABLE broker_users DROP CONSTRAINT trial;
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
         CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON device_keys DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await
    .expect("it is ours");
    let (report, made) = import_with(&mut sql, Format::Ndjson, &file, BOTH).await;
    let ended = report.ended.as_ref().expect("it ended early");
    assert_eq!((made.len(), made[0].line, ended.line), (1_000, 1_001, 1_001));
    assert!(!ended.is_unsure(), "a refusal is sure");
    assert_eq!(texts(&sql, HAVING).await, told(&listener.made));

    // Brought again, the rest is made.
    sql.batch_execute("DROP TRIGGER refuse ON device_keys").await.expect("it is ours");
    let (report, made) = import_with(&mut sql, Format::Ndjson, &file, BOTH).await;
    assert!(report.ended.is_none());
    assert_eq!((counts(&report), made.len()), ([1_500, 0, 1_000, 0], 1_500));
}

#[tokio::test]
async fn two_imports_of_the_same_devices_end_and_answer_for_each_once() {
    let trial = Trial::start().await;
    let (mut one, mut other) = (trial.sql().await, trial.sql().await);
    let forward = lines(0..3_000);
    let backward: String = forward.lines().rev().flat_map(|line| [line, "\n"]).collect();
    let ((first, mut made), (second, made_by_the_other)) = tokio::join!(
        import_with(&mut one, Format::Ndjson, &forward, BOTH),
        import_with(&mut other, Format::Ndjson, &backward, BOTH)
    );
    assert!(first.ended.is_none() && second.ended.is_none(), "{first:?} {second:?}");
    assert_eq!(first.created + second.created, 3_000);
    made.extend(made_by_the_other);
    let mut ids: Vec<&str> = made.iter().map(|made| made.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((made.len(), ids.len()), (3_000, 3_000));
    assert!(made.iter().all(|made| made.issued.mqtt.is_some() && made.issued.api_key.is_some()));
}
