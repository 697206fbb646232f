//! Whole fleets: brought line by line, taken page by page, and brought again.

use iotflow::identity::device_keys;
use iotflow::operations::bulk::{self, Format, Options, Report};
use iotflow::operations::credentials::Wanted;
use iotflow::operations::groups;
use tokio_postgres::Client;

use crate::registry::group;
use crate::support::judge::{number, texts};
use crate::trial::{Trial, ada};

async fn import(sql: &mut Client, format: Format, data: &str, options: Options) -> Report {
    bulk::import(sql, &ada(), format, data.as_bytes(), options)
        .await
        .expect("it is a file")
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
    let dry = import(&mut sql, Format::Csv, file, options).await;
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
    assert!(dry.issued.is_empty());
    for table in ["devices", "device_group_members", "broker_users", "audit_log"] {
        assert_eq!(number(&sql, &format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    let wet = import(&mut sql, Format::Csv, file, Options { dry_run: false, ..options }).await;
    assert_eq!((counts(&wet), wet.issued.len()), ([1, 0, 0, 5], 1), "what makes sense is taken");
    assert_eq!(texts(&sql, "SELECT username FROM broker_users").await, ["a"]);
    assert!(
        bulk::import(&mut sql, &ada(), Format::Csv, b"id,name\n", Options::default())
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
    let options = Options {
        dry_run: false,
        credentials: Wanted { mqtt: true, api_key: true },
    };
    let first = import(&mut sql, Format::Ndjson, &file, options).await;
    assert_eq!((first.created, first.issued.len()), (300, 300));
    assert_eq!(number(&sql, version).await - before, 1);
    let (id, issued) = &first.issued[17];
    assert_eq!(issued.mqtt.as_ref().expect("a login").username.as_str(), id.as_str());
    let holder = device_keys::verify(&sql, issued.api_key.as_ref().expect("a key").reveal())
        .await
        .expect("it is taken");
    assert_eq!(&holder.id, id);
    let again = import(&mut sql, Format::Ndjson, &file, options).await;
    assert_eq!((again.unchanged, again.issued.len()), (300, 0), "who has credentials keeps them");
    assert_eq!(number(&sql, "SELECT count(*) FROM broker_users WHERE role = 'device'").await, 300);
}
