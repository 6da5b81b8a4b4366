//! `termitary migrate --check` and `--sql` look at a database and change nothing.

use crate::sandbox::Sandbox;

#[test]
fn a_database_that_is_behind_is_told_with_exit_code_1_and_left_as_it_was() {
    let sandbox = Sandbox::new();
    let text = sandbox.fails(1, &["migrate", "--check"]);
    assert!(text.contains("is behind version"), "{text}");
    assert!(text.contains("`termitary migrate`"), "{text}");
    assert!(!sandbox.path("termitary.db").exists());
    sandbox.ok(&["migrate"]);
    let text = sandbox.ok(&["migrate", "--check"]);
    assert!(text.contains("is at version"), "{text}");
}

#[test]
fn the_sql_of_a_migration_is_printed_and_nothing_once_it_ran() {
    let sandbox = Sandbox::new();
    let sql = sandbox.ok(&["migrate", "--sql"]);
    assert!(sql.starts_with("BEGIN IMMEDIATE;"), "{sql}");
    assert!(sql.contains("CREATE TABLE termitary_events"), "{sql}");
    assert!(sql.trim_end().ends_with("COMMIT;"), "{sql}");
    assert!(!sandbox.path("termitary.db").exists());
    sandbox.ok(&["migrate"]);
    assert_eq!(sandbox.ok(&["migrate", "--sql"]), "");
}
