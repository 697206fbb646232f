//! Names, places and passwords that make no sense, or try to mean something to a file, a topic or a program: each is refused
//! with a sentence that says what would be right, and nothing is different afterwards.

use crate::place::{LISTENERS, Place, Said, tree};
use crate::support::judge;

const NO_NAMES: &[&str] = &[
    "",
    " ",
    "a b",
    "a\nb",
    "a\n",
    "a\r",
    "a\tb",
    "a#",
    "#",
    "+",
    "a/b",
    "/etc/passwd",
    "..",
    "../../escaped",
    ".hidden",
    "'a'",
    "\"a\"",
    "`id`",
    "$(id)",
    "a;id",
    "a\\",
    "%u",
    "\u{1b}[2J",
    "ünit",
    "а", // Cyrillic
    "a\u{200b}",
    ":a",
    "-",
];
const NO_HOSTS: &[&str] = &[
    "",
    " ",
    "a b",
    "a\nb",
    "a/b",
    "#",
    "host:1883",
    "../escaped",
    "-a",
    "a-",
    "ünit",
    "999.1.1",
    "a..b",
    "*",
    "$(id)",
    "\u{1b}[2J",
];
const NO_LISTENERS: &[&str] = &[
    "",
    "plain",
    "plain=",
    "plain=127.0.0.1",
    "plain=localhost:1883",
    "plain=127.0.0.1:99999",
    "plain=127.0.0.1:-1",
    "plain=127.0.0.1:18\n83",
    "plain=127.0.0.1:1883\nallow_anonymous true",
    "plain=/etc/passwd:1883",
    "plain=0.0.0.0 # :1883",
    "nobody=127.0.0.1:1883",
    "Plain=127.0.0.1:1883",
    "\n=127.0.0.1:1883",
];

/// One sentence, and no more lines than it has.
fn assert_refused(what: &str, said: &Said, right: &str) {
    assert_eq!(said.code, Some(2), "{what:?}: {said:?}");
    assert!(
        said.error.starts_with("iotflow: ") && said.error.contains(right),
        "{what:?}: {said:?}"
    );
    assert_eq!(said.error.trim_end().lines().count(), 1, "{what:?}: {said:?}");
    assert!(!said.error.contains('\u{1b}'), "{what:?}: a terminal would obey");
    assert_eq!(said.out, "", "{what:?}");
}

#[tokio::test]
async fn a_name_that_is_none_is_refused_and_changes_nothing() {
    let place = Place::set_up();
    place.does(&["create-user", "known", "a-good-password"]);
    let sql = place.sql().await;
    let state = async || {
        let rows = "SELECT u::text FROM broker_users u UNION ALL SELECT d::text FROM devices d UNION ALL SELECT a::text FROM broker_access a ORDER BY 1";
        (judge::texts(&sql, rows).await, tree(place.folder.path()))
    };
    let before = state().await;
    let long = "x".repeat(10_240);
    let names = NO_NAMES.iter().copied().chain([long.as_str()]);
    for name in names {
        for verb in ["create-user", "delete-user", "generate-device", "rotate", "disable", "enable"] {
            let said = place.says(&[verb, "--", name]);
            assert_refused(
                &format!("{verb} {name:.40}"),
                &said,
                "1 to 64 of the characters A-Z a-z 0-9 _ . : -",
            );
        }
    }
    for verb in ["create-user", "generate-device", "rotate"] {
        assert_refused(verb, &place.says(&[verb, "aa:bb"]), "it can have a certificate");
        // It looks like an option, and the program that reads options says what to do.
        let said = place.says(&[verb, "-u"]);
        assert!(said.code == Some(2) && said.error.contains("unexpected argument '-u'"), "{said:?}");
    }
    for verb in ["create-user", "generate-device"] {
        assert_refused(
            verb,
            &place.says(&[verb, "iotflow-canary"]),
            "names that begin with iotflow- are the service's own",
        );
        assert_refused(verb, &place.says(&[verb, "iotflow"]), "there is a user iotflow already");
    }
    for role in ["", "root", "service", "admin\n"] {
        let said = place.says(&["create-user", "b", "--role", role]);
        assert!(said.code == Some(2) && !said.error.is_empty(), "{role:?}: {said:?}");
    }
    let after = state().await;
    assert_eq!(after.0, before.0);
    assert_eq!(after.1.keys().collect::<Vec<_>>(), before.1.keys().collect::<Vec<_>>());
    assert!(after.1 == before.1, "a file has changed");
    place.does(&["test", "known", "a-good-password"]);
}

#[tokio::test]
async fn a_password_that_is_none_is_refused_and_changes_nothing() {
    let place = Place::set_up();
    place.does(&["create-user", "known-device", "a-good-password"]);
    let before = tree(&place.path(".iotflow"));
    let long = "x".repeat(10_240);
    let passwords: [(&[u8], &str); 10] = [
        (b"", "8 to 256 bytes"),
        (b"\n", "8 to 256 bytes"),
        (b"short", "8 to 256 bytes"),
        (long.as_bytes(), "8 to 256 bytes"),
        (b"two\nlines-of-it", "no control characters"),
        (b"a-password\nroot:$7$101$x$y\n", "no control characters"),
        (b"nul\0nul-nul", "no control characters"),
        (b"\xff\xfe\xfd-not-utf-8", "the password is expected"),
        (b"admin123", "leave it out, and a random one is made"),
        (b"known-device", "leave it out, and a random one is made"),
    ];
    for (password, right) in passwords {
        let what = String::from_utf8_lossy(password).chars().take(20).collect::<String>();
        std::fs::write(place.path("password"), password).expect("it is ours");
        let said = place.says_with(&["rotate", "known-device", "--password-stdin"], password);
        assert_refused(&what, &said, right);
        let said = place.says(&["rotate", "known-device", "--password-file", "password"]);
        assert_refused(
            &what,
            &said,
            if right.contains("is expected") {
                "a file with the password"
            } else {
                right
            },
        );
    }
    let said = place.says(&["rotate", "known-device", "--password-file", "not-there"]);
    assert_refused("not-there", &said, "a file with the password is expected");
    assert!(tree(&place.path(".iotflow")) == before, "a file has changed");
    place.does(&["test", "known-device", "a-good-password"]);
}

#[test]
fn a_listener_or_a_host_that_is_none_is_refused_and_changes_nothing() {
    let fresh = Place::new();
    let known = Place::new();
    known.does(&[&["setup", "--no-start"], LISTENERS].concat());
    let before = tree(known.folder.path());
    let long = "x".repeat(10_240);
    for place in [&fresh, &known] {
        for name in NO_HOSTS.iter().copied().chain([long.as_str()]) {
            let said = place.says(&["setup", &format!("--name={name}")]);
            assert_refused(&format!("{name:.40}"), &said, "neither an address nor a host name");
        }
        for listener in NO_LISTENERS {
            let said = place.says(&["setup", &format!("--listener={listener}")]);
            assert_refused(
                listener,
                &said,
                "KIND=ADDRESS:PORT is expected, such as plain=127.0.0.1:1883, or KIND=off",
            );
        }
        assert_refused(
            "staff",
            &place.says(&["setup", "--listener=staff=off"]),
            "the service itself comes by it",
        );
    }
    assert_eq!(std::fs::read_dir(fresh.folder.path()).expect("it is ours").count(), 0);
    assert!(tree(known.folder.path()) == before, "a file has changed");
}
