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
        layer(&["lock"]),
        // The words of the domain.
        layer(&[
            "clock", "delivery", "draft", "error", "event", "excerpt", "payload", "trace",
        ]),
        // Tools that do not depend on the domain.
        layer(&["fault", "guard", "outage", "planted", "task", "together"]),
        // The engines of the databases.
        layer(&["engine"]),
        // Every rule of deliveries, and every statement. `db` only names the public types.
        layer(&["db", "ledger"]),
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
        layer(&["guide", "hot_paths", "prelude", "simulation", "testing"]),
    ],
    apart: &[("broker", "handler")],
    exceptions: &[],
    sql: Sql {
        files: &["ledger", "engine"],
        tables: &[("ledger", "termitary_")],
        exceptions: &[],
    },
};

pub(super) const APPLICATION: Tree = Tree {
    sources: "crates/termitary-app/src",
    layers: &[
        // The events, which every module may publish and handle.
        layer(&[
            "activity::events",
            "auth::events",
            "todos::events",
            "users::events",
        ]),
        // Small tools.
        layer(&[
            "casefold", "credit", "network", "quota", "random", "rate", "secret",
        ]),
        // Settings, and the configuration that gives them.
        layer(&["settings"]),
        layer(&["config"]),
        layer(&["logging"]),
        // The words of SQL.
        layer(&["sql"]),
        // Tools of several features.
        layer(&["mailer", "provenance", "schema", "security"]),
        layer(&["accounts"]),
        // The state of the application.
        layer(&["app"]),
        layer(&["http"]),
        // The features: each offers functions to the others in its doors.
        Layer {
            modules: &["activity", "auth", "mail", "todos", "users"],
            sideways: Sideways::Only(&["doors"]),
        },
        // The modules put together.
        layer(&["wiring"]),
        layer(&["cli"]),
    ],
    apart: &[],
    exceptions: &[],
    sql: Sql {
        files: &[
            "store",
            "accounts::store",
            "todos::store",
            "provenance",
            "schema",
            "sql",
        ],
        tables: &[
            ("accounts", "links"),
            ("accounts", "sessions"),
            ("accounts", "users"),
            ("activity", "activity"),
            ("activity", "stream_tickets"),
            ("auth", "attempt_limits"),
            ("auth", "known_sources"),
            ("http", "answers"),
            ("mail", "mail_devices"),
            ("mail", "mails_counted"),
            ("provenance", "provenance"),
            ("schema", "installation"),
            ("schema", "write_probe"),
            ("todos", "comments"),
            ("todos", "overdue_reminders"),
            ("todos", "todos"),
        ],
        exceptions: &[],
    },
};
