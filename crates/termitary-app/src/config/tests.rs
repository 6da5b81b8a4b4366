//! Every bad setting is refused in words that help; no message shows a password.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

fn parse(set: &[(&str, &str)]) -> Result<Config, Mistake> {
    Config::try_from(set.iter().copied().collect::<Variables>())
}

fn mistake(set: &[(&str, &str)]) -> String {
    parse(set).err().unwrap().to_string()
}

#[test]
fn without_settings_everything_runs_in_one_file() {
    let config = parse(&[]).unwrap();
    assert_eq!(config.database_url, "sqlite://termitary.db");
    assert!(config.redis.is_none());
    assert_eq!((config.host.as_str(), config.port), ("127.0.0.1", 3000));
    assert!(
        matches!(config.mail, MailTransport::Files(dir) if dir == std::path::Path::new("mail"))
    );
    assert_eq!(config.grace, Duration::from_secs(25));
}

#[test]
fn an_empty_setting_is_not_set() {
    let config = parse(&[("PORT", ""), ("REDIS_URL", " "), ("REDIS_HOST", "")]).unwrap();
    assert_eq!(config.port, 3000);
    assert!(config.redis.is_none());
}

#[test]
fn a_bad_port_is_named_with_the_way_out() {
    let text = mistake(&[("PORT", "70000")]);
    assert_eq!(
        text,
        "PORT is `70000`: write a number from 0 to 65535, such as 3000"
    );
}

#[test]
fn a_postgresql_url_is_taken_and_a_bad_one_shown_without_its_password() {
    for scheme in ["postgres", "postgresql"] {
        let url = format!("{scheme}://u:hunter2@db/x");
        let config = parse(&[("DATABASE_URL", &url)]).unwrap();
        assert!(config.on_postgres() && config.database_url == url);
    }
    for url in [
        "postgres://u:hunter2@db:port/x",
        "postgres://u@db:port/x?password=hunter2&sslmode=require",
        "postgres:u:hunter2@db:port",
    ] {
        let text = mistake(&[("DATABASE_URL", url)]);
        assert!(text.contains("postgres://user:password@host"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_bad_redis_url_is_shown_without_its_password() {
    for url in [
        "redis//:hunter2@host",
        "http://:hunter2@host",
        "redis://u:hunter2@host:port",
        "redis://:hunter2@",
    ] {
        let text = mistake(&[("REDIS_URL", url)]);
        assert!(text.starts_with("REDIS_URL is"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn the_redis_url_wins_over_its_parts() {
    let shown = parse(&[("REDIS_URL", "redis://one:1111"), ("REDIS_HOST", "two")])
        .unwrap()
        .redis
        .unwrap()
        .to_string();
    assert!(shown.contains("one:1111"), "{shown}");
}

#[test]
fn each_redis_setting_is_used() {
    // The settings, the server, the user and the password.
    type Case<'a> = (
        &'a [(&'a str, &'a str)],
        &'a str,
        Option<&'a str>,
        Option<&'a str>,
    );
    let cases: [Case<'_>; 9] = [
        (
            &[("REDIS_URL", "redis://u:p@h:7000/2")],
            "redis://h:7000/2",
            Some("u"),
            Some("p"),
        ),
        (
            &[("REDIS_URL", "redis://h"), ("REDIS_PASSWORD", "p")],
            "redis://h",
            None,
            Some("p"),
        ),
        (
            &[("REDIS_URL", "redis://u@h"), ("REDIS_PASSWORD", "p")],
            "redis://h",
            Some("u"),
            Some("p"),
        ),
        (
            &[
                ("REDIS_URL", "redis://:p%40@h"),
                ("REDIS_PASSWORD", "p@"),
                ("REDIS_USERNAME", "u"),
            ],
            "redis://h",
            Some("u"),
            Some("p@"),
        ),
        (
            &[("REDIS_URL", "redis://h"), ("REDIS_DB", "3")],
            "redis://h/3",
            None,
            None,
        ),
        (
            &[("REDIS_URL", "redis://h/3"), ("REDIS_DB", "3")],
            "redis://h/3",
            None,
            None,
        ),
        (
            &[("REDIS_URL", "rediss://h"), ("REDIS_TLS", "yes")],
            "rediss://h",
            None,
            None,
        ),
        (
            &[
                ("REDIS_HOST", "h"),
                ("REDIS_PORT", "7000"),
                ("REDIS_TLS", "1"),
                ("REDIS_DB", "4"),
            ],
            "rediss://h:7000/4",
            None,
            None,
        ),
        (&[("REDIS_HOST", "[::1]")], "redis://[::1]", None, None),
    ];
    for (set, server, username, password) in cases {
        let redis = parse(set).unwrap().redis.unwrap();
        assert_eq!(redis.to_string(), server, "{set:?}");
        let info = redis.connection_info().unwrap();
        let said = info.redis_settings();
        assert_eq!(
            (said.username(), said.password()),
            (username, password),
            "{set:?}"
        );
    }
}

#[test]
fn a_redis_setting_that_cannot_work_or_contradicts_another_is_refused_by_its_name() {
    for (set, names) in [
        (
            &[("REDIS_HOST", "cache:6379")][..],
            ["REDIS_HOST", "cache:6379"],
        ),
        (
            &[("REDIS_HOST", "redis://:hunter2@h")],
            ["REDIS_HOST", "URL"],
        ),
        (
            &[("REDIS_HOST", "h"), ("REDIS_PORT", "0")],
            ["REDIS_PORT", "65535"],
        ),
        (
            &[("REDIS_HOST", "h"), ("REDIS_DB", "-1")],
            ["REDIS_DB", "`-1`"],
        ),
        (
            &[("REDIS_HOST", "h"), ("REDIS_USERNAME", "u")],
            ["REDIS_USERNAME", "REDIS_PASSWORD"],
        ),
        (
            &[("REDIS_URL", "redis://hunter2@h")],
            ["REDIS_URL", "password"],
        ),
        (
            &[("REDIS_URL", "redis://:hunter2@h?db=3")],
            ["REDIS_URL", "/1"],
        ),
        (
            &[("REDIS_URL", "redis://:hunter2@h:0")],
            ["REDIS_URL", "port 0"],
        ),
        (
            &[
                ("REDIS_URL", "redis://:hunter2@h"),
                ("REDIS_PASSWORD", "hunter22"),
            ],
            ["REDIS_URL", "REDIS_PASSWORD"],
        ),
        (
            &[
                ("REDIS_URL", "redis://a:hunter2@h"),
                ("REDIS_USERNAME", "b"),
            ],
            ["REDIS_URL", "REDIS_USERNAME"],
        ),
        (
            &[("REDIS_URL", "redis://h/1"), ("REDIS_DB", "2")],
            ["REDIS_URL", "REDIS_DB"],
        ),
        (
            &[("REDIS_URL", "redis://h"), ("REDIS_TLS", "yes")],
            ["REDIS_TLS", "rediss://"],
        ),
        (
            &[("REDIS_URL", "rediss://h"), ("REDIS_TLS", "no")],
            ["REDIS_TLS", "rediss://"],
        ),
        (&[("REDIS_DB", "2")], ["REDIS_DB", "no Redis"]),
        (&[("REDIS_TLS", "yes")], ["REDIS_TLS", "no Redis"]),
        (&[("REDIS_USERNAME", "u")], ["REDIS_USERNAME", "no Redis"]),
    ] {
        let text = mistake(set);
        for name in names {
            assert!(text.contains(name), "{set:?}: {text}");
        }
        assert!(!text.contains("hunter2"), "{set:?}: {text}");
    }
}

#[test]
fn the_original_settings_of_redis_work() {
    let shown = parse(&[
        ("REDIS_HOST", "cache"),
        ("REDIS_PORT", "6380"),
        ("REDIS_PASSWORD", "hunter2"),
    ])
    .unwrap()
    .redis
    .unwrap()
    .to_string();
    assert!(
        shown.contains("cache:6380") && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[test]
fn a_port_that_kubernetes_made_of_a_service_is_not_ours() {
    let link = "tcp://10.0.0.1:6379";
    let config = parse(&[("REDIS_PORT", link)]);
    assert!(config.unwrap().redis.is_none());
    let config = parse(&[("REDIS_PORT", link), ("REDIS_HOST", "cache")]).unwrap();
    assert!(
        config.notes[0].starts_with("REDIS_PORT"),
        "{:?}",
        config.notes
    );
    let shown = config.redis.unwrap().to_string();
    assert!(
        shown.contains("cache") && !shown.contains("10.0.0.1"),
        "{shown}"
    );
}

#[test]
fn a_password_for_no_redis_is_a_mistake() {
    let text = mistake(&[("REDIS_PASSWORD", "hunter2")]);
    assert!(
        text.contains("REDIS_HOST") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn a_secret_may_stand_in_a_file_but_not_in_both_places() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("url");
    std::fs::write(&file, "sqlite://other.db\n").unwrap();
    let file = file.to_str().unwrap();
    let settings = &[("DATABASE_URL_FILE", file)];
    assert_eq!(parse(settings).unwrap().database_url, "sqlite://other.db");
    let both = &[
        ("DATABASE_URL", "sqlite://a.db"),
        ("DATABASE_URL_FILE", file),
    ];
    assert!(mistake(both).contains("both set"));
    let missing = &[("SMTP_URL_FILE", "/nowhere/at/all")];
    assert!(mistake(missing).starts_with("SMTP_URL_FILE is `/nowhere/at/all`"));
}

#[test]
fn times_have_units() {
    let read = values::time;
    assert_eq!(read("25"), Some(Duration::from_secs(25)));
    assert_eq!(read("500ms"), Some(Duration::from_millis(500)));
    assert_eq!(read("2m"), Some(Duration::from_mins(2)));
    for bad in ["soon", "-1", "2d", "99999999999999999999", "25h"] {
        assert_eq!(read(bad), None, "{bad}");
    }
}

#[test]
fn words_are_chosen_from_a_list() {
    let text = mistake(&[("TERMITARY_PUBSUB_BRIDGE", "sideways")]);
    assert_eq!(
        text,
        "TERMITARY_PUBSUB_BRIDGE is `sideways`: write one of off, in, out, both"
    );
    assert!(mistake(&[("LOG_FORMAT", "xml")]).contains("pretty, json"));
    assert!(mistake(&[("TERMITARY_ENV", "prod")]).contains("production"));
}

#[test]
fn every_setting_is_documented() {
    for setting in documented() {
        assert!(setting.help.len() > 15, "{setting:?}");
    }
}
