//! The layers of the library and of the application.

use super::{Layer, Sideways, Sql, Tree};

const fn layer(modules: &'static [&'static str]) -> Layer {
    Layer {
        modules,
        sideways: Sideways::All,
    }
}

pub(super) const LIBRARY: Tree = Tree {
    sources: "crates/termitary/src",
    layers: &[
        // The words of the domain.
        layer(&[
            "clock", "delivery", "draft", "error", "event", "excerpt", "payload", "trace",
        ]),
        // Tools that do not depend on the domain.
        layer(&[
            "fault", "guard", "lock", "outage", "planted", "task", "together",
        ]),
        // The engines of the databases.
        layer(&["db", "sqlite"]),
        // Every rule of deliveries, and every statement.
        layer(&["agreed", "ledger"]),
        // The declarations of a program.
        layer(&[
            "handler",
            "publish",
            "registry",
            "retry",
            "schedule",
            "subscription",
        ]),
        layer(&["broker"]),
        layer(&["worker"]),
        layer(&["inspect"]),
        layer(&["guide", "hot", "prelude", "simulation", "testing"]),
    ],
    apart: &[("broker", "handler")],
    exceptions: &[
        ("broker", "worker::roll"),
        ("broker::bus", "handler"),
        ("db::open", "ledger"),
        ("db::tx", "ledger::publish"),
        ("draft", "db"),
        ("ledger::declare", "registry"),
        ("ledger::declare", "schedule::record::declare"),
        ("ledger::declare", "worker::roll"),
        ("ledger::lease", "broker"),
        ("ledger::letters", "inspect"),
        ("ledger::moved", "registry"),
        ("ledger::moved", "subscription"),
        ("ledger::moved", "worker::roll"),
        ("schedule::ahead", "inspect"),
        ("schedule::record", "inspect"),
        ("trace", "db"),
        ("worker::roll", "inspect"),
    ],
    sql: Sql {
        files: &["ledger", "db", "sqlite"],
        tables: &[
            ("ledger", "termitary_"),
            ("db", "termitary_schema"),
            ("db", "termitary_ledger"),
        ],
        exceptions: &[
            ("agreed", "termitary_workers"),
            ("inspect", "termitary_audit"),
            ("inspect", "termitary_events"),
            ("schedule::ahead", "termitary_schedules"),
            ("schedule::ahead", "termitary_ticks"),
            ("schedule::fire", "termitary_schedules"),
            ("schedule::fire", "termitary_ticks"),
            ("schedule::record", "termitary_schedules"),
            ("schedule::record", "termitary_ticks"),
            ("worker::gone", "termitary_subscriptions"),
            ("worker::roll", "termitary_workers"),
        ],
    },
};

pub(super) const APPLICATION: Tree = Tree {
    sources: "crates/termitary-app/src",
    layers: &[
        layer(&["fold", "provenance", "secret"]),
        layer(&["config", "logging"]),
        layer(&["security"]),
        layer(&["accounts", "http"]),
        // The features: each has two functions for the wiring, and its events for the others.
        Layer {
            modules: &["activity", "auth", "mail", "todos", "users"],
            sideways: Sideways::Only(&["events"]),
        },
        layer(&["app"]),
        layer(&["cli"]),
    ],
    apart: &[],
    exceptions: &[
        ("accounts", "app"),
        ("accounts", "mail"),
        ("accounts", "users::events"),
        ("activity", "app"),
        ("activity", "auth"),
        ("auth", "app"),
        ("config", "app"),
        ("http", "activity"),
        ("http", "app"),
        ("http", "auth"),
        ("http", "todos"),
        ("http", "users"),
        ("mail", "app"),
        ("security", "app"),
        ("security", "http"),
        ("todos", "app"),
        ("todos", "auth"),
        ("users", "app"),
        ("users", "auth"),
    ],
    sql: Sql {
        files: &["store"],
        tables: &[
            ("accounts", "users"),
            ("accounts", "links"),
            ("activity", "activity"),
            ("auth", "attempt_limits"),
            ("auth", "known_sources"),
            ("auth", "sessions"),
            ("auth", "stream_tickets"),
            ("http", "answers"),
            ("http", "write_probe"),
            ("mail", "mails_counted"),
            ("mail", "mail_devices"),
            ("provenance", "provenance"),
            ("todos", "comments"),
            ("todos", "overdue_reminders"),
            ("todos", "todos"),
        ],
        exceptions: &[
            ("accounts", "users"),
            ("accounts::changes", "sessions"),
            ("accounts::changes", "users"),
            ("accounts::links", "links"),
            ("accounts::links", "users"),
            ("activity::store", "todos"),
            ("auth::known", "known_sources"),
            ("auth::known", "users"),
            ("auth::limits", "attempt_limits"),
            ("auth::lookups", "sessions"),
            ("auth::lookups", "users"),
            ("auth::operator", "users"),
            ("auth::store", "users"),
            ("auth::tickets", "stream_tickets"),
            ("http::idempotency::slot", "answers"),
            ("http::ready", "write_probe"),
            ("mail::budget", "mails_counted"),
            ("mail::store", "todos"),
            ("mail::store", "users"),
            ("provenance", "provenance"),
            ("todos::listing", "todos"),
            ("todos::store", "users"),
            ("users::store", "users"),
        ],
    },
};
