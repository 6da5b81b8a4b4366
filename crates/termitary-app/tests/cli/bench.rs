//! `termitary bench` beside somebody's data.

use std::collections::BTreeMap;

use redis::Commands as _;
use serde_json::Value;

use crate::redis_server::with_redis;
use crate::sandbox::{Process, Sandbox, eventually};

/// Everything, but little of it.
const SMALL: [&str; 9] = [
    "bench",
    "--json",
    "--transactional",
    "--events",
    "300",
    "--rate",
    "300",
    "--workers",
    "2",
];
/// Ten seconds with a worker process that has something to do all the time.
const LONG: [&str; 7] = [
    "bench", "--only", "latency", "--rate", "500", "--events", "5000",
];

/// Leftover folders of a run beside the database.
fn scratch_folders(sandbox: &Sandbox) -> usize {
    std::fs::read_dir(sandbox.path(""))
        .unwrap()
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with(".termitary-bench")
        })
        .count()
}

/// Every key of the server with all that it holds.
fn dump(connection: &mut redis::Connection) -> BTreeMap<String, Vec<u8>> {
    let keys: Vec<String> = connection.keys("*").unwrap();
    let held = |key: &String| redis::cmd("DUMP").arg(key).query(connection).unwrap();
    let held: Vec<Vec<u8>> = keys.iter().map(held).collect();
    keys.into_iter().zip(held).collect()
}

/// Data of a user: a todo service that ran and left work to do.
fn lived_in(sandbox: &Sandbox) {
    sandbox.start(&["worker"]).works().stop();
    sandbox.ok(&[
        "publish",
        "users.created",
        r#"{"id":"1","email":"a@example.com","name":"A"}"#,
    ]);
}

fn positive(report: &Value, pointer: &str) {
    let value = report.pointer(pointer).and_then(Value::as_f64);
    assert!(
        value.is_some_and(|value| value > 0.0),
        "{pointer}: {report:#}"
    );
}

/// Everything that was asked for is there.
fn complete(report: &Value) {
    for pointer in [
        "/publish/one/perSecond",
        "/publish/concurrent/perSecond",
        "/publish/all/perSecond",
        "/drain/one/perSecond",
        "/drain/several/perSecond",
        "/latency/p50Ms",
        "/latency/p999Ms",
        "/transactional/perSecond",
        "/transactional/committedPerSecond",
    ] {
        positive(report, pointer);
    }
    assert_eq!(report["format"], 1);
    assert_eq!(report["drain"]["several"]["workers"], 2);
    assert_eq!(report["drain"]["one"]["events"], 300);
    assert_eq!(report["latency"]["events"], 300);
    if cfg!(target_os = "linux") {
        positive(report, "/drain/one/peakResidentBytes");
    }
}

#[test]
fn a_benchmark_on_sqlite_measures_everything_and_leaves_the_database_alone() {
    let sandbox = Sandbox::new();
    lived_in(&sandbox);
    let before = std::fs::read(sandbox.path("termitary.db")).unwrap();
    let report = sandbox.json(&SMALL);
    complete(&report);
    assert_eq!(report["broker"], "sqlite");
    positive(&report, "/storage/pendingBytesPerEvent/database");
    assert_eq!(std::fs::read(sandbox.path("termitary.db")).unwrap(), before);
    assert_eq!(scratch_folders(&sandbox), 0);
}

#[test]
fn a_benchmark_makes_no_database_where_there_is_none() {
    let sandbox = Sandbox::new();
    let said = sandbox.ok(&["bench", "--only", "publish-all,latency", "--events", "50"]);
    assert!(
        said.contains("publish_all") && said.contains("p99.9"),
        "{said}"
    );
    assert!(!said.contains("drain"), "{said}");
    assert_eq!(std::fs::read_dir(sandbox.path("")).unwrap().count(), 0);
}

#[test]
fn a_benchmark_over_redis_leaves_every_byte_of_the_users_keys_as_it_was() {
    let Some((sandbox, redis)) = with_redis() else {
        return;
    };
    lived_in(&sandbox);
    let mut connection = redis.connect();
    let before = dump(&mut connection);
    assert!(!before.is_empty());
    let report = sandbox.json(&SMALL);
    complete(&report);
    assert_eq!(report["broker"], "redis");
    positive(&report, "/storage/pendingBytesPerEvent/redis");
    positive(&report, "/drain/one/cpuSecondsPer100k/redis");
    assert_eq!(dump(&mut connection), before);
    assert_eq!(scratch_folders(&sandbox), 0);
}

/// The processes that a benchmark started and that still live.
fn children(of: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children"));
    let list = list.unwrap_or_default();
    list.split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect()
}

/// A benchmark with a running worker process, and the id of that process if the system tells it.
fn in_the_middle(sandbox: &Sandbox) -> (Process, Vec<u32>) {
    let bench = sandbox.start(&LONG);
    let mut workers = Vec::new();
    eventually("a worker process has the scratch database open", || {
        workers = children(bench.id());
        let begun = scratch_folders(sandbox) == 1;
        begun && (!workers.is_empty() || !cfg!(target_os = "linux"))
    });
    (bench, workers)
}

#[cfg(target_os = "linux")]
#[test]
fn a_signal_ends_a_benchmark_and_nothing_of_it_is_left() {
    let Some((sandbox, redis)) = with_redis() else {
        return;
    };
    for signal in ["INT", "TERM"] {
        lived_in(&sandbox);
        let mut connection = redis.connect();
        let before = dump(&mut connection);
        let (mut bench, _) = in_the_middle(&sandbox);
        eventually("there are keys of the benchmark", || {
            let keys: Vec<String> = connection.keys("termitary-bench:*:events").unwrap();
            !keys.is_empty()
        });
        bench.signal(signal);
        assert_eq!(bench.end().code(), Some(1), "{}", bench.said());
        assert!(bench.said().contains("nothing is left"), "{}", bench.said());
        assert_eq!(dump(&mut connection), before);
        assert_eq!(scratch_folders(&sandbox), 0);
    }
}

/// Returns whether a process exists and is not a zombie.
fn lives(id: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{id}/stat"));
    state.is_ok_and(|stat| !stat.contains(") Z "))
}

#[cfg(target_os = "linux")]
#[test]
fn worker_processes_end_with_a_benchmark_that_is_interrupted_or_killed() {
    for signal in ["INT", "KILL"] {
        let sandbox = Sandbox::new();
        let (mut bench, workers) = in_the_middle(&sandbox);
        bench.signal(signal);
        bench.end();
        eventually("the worker process is gone", || {
            !workers.iter().any(|&id| lives(id))
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_benchmark_whose_worker_dies_says_so_and_cleans_up() {
    let sandbox = Sandbox::new();
    let (mut bench, workers) = in_the_middle(&sandbox);
    assert!(crate::sandbox::send(workers[0], "KILL"));
    assert_eq!(bench.end().code(), Some(1), "{}", bench.said());
    assert!(
        bench.said().contains("a worker process"),
        "{}",
        bench.said()
    );
    assert_eq!(scratch_folders(&sandbox), 0);
}

#[test]
fn what_a_killed_benchmark_left_goes_with_the_next_one() {
    let Some((sandbox, redis)) = with_redis() else {
        return;
    };
    lived_in(&sandbox);
    let mut connection = redis.connect();
    let before = dump(&mut connection);
    in_the_middle(&sandbox).0.kill();
    assert_eq!(scratch_folders(&sandbox), 1);
    assert_ne!(dump(&mut connection), before);
    sandbox.ok(&["bench", "--only", "publish-one", "--events", "10"]);
    assert_eq!(dump(&mut connection), before);
    assert_eq!(scratch_folders(&sandbox), 0);
}

#[test]
fn two_benchmarks_at_once_leave_each_other_alone() {
    let Some((sandbox, redis)) = with_redis() else {
        return;
    };
    let mut connection = redis.connect();
    let (mut long, _) = in_the_middle(&sandbox);
    let keys = |connection: &mut redis::Connection| -> Vec<String> {
        connection.keys("termitary-bench:*").unwrap()
    };
    sandbox.ok(&["bench", "--only", "publish-one", "--events", "10"]);
    assert!(!keys(&mut connection).is_empty());
    assert_eq!(scratch_folders(&sandbox), 1);
    long.signal("INT");
    long.end();
    assert_eq!(keys(&mut connection), Vec::<String>::new());
}

#[test]
fn a_benchmark_refuses_what_makes_no_sense_and_says_why() {
    let sandbox = Sandbox::new();
    for (args, words) in [
        (&["--events", "0"][..], "0 is not in 1..=10000000"),
        (&["--events", "99999999"], "99999999 is not in"),
        (&["--events", "-5"], "-5"),
        (&["--producers", "0"], "--producers"),
        (&["--concurrency", "20000"], "from 1 to 10000"),
        (&["--workers", "65"], "65 is not in 1..=64"),
        (&["--rate", "0"], "--rate"),
        (&["--only", "everything"], "possible values"),
        (&["--broker", "kafka"], "sqlite, redis"),
        (&["--broker", "redis"], "REDIS_URL"),
    ] {
        let args = [&["bench"], args].concat();
        let error = sandbox.fails(2, &args);
        assert!(error.contains(words), "{args:?}: {error}");
    }
    let mut nowhere = Sandbox::new();
    nowhere.set("DATABASE_URL", "sqlite:///nowhere/at/all.db");
    let error = nowhere.fails(1, &["bench"]);
    assert!(
        error.contains("/nowhere/at") && error.contains("DATABASE_URL"),
        "{error}"
    );
}

#[test]
fn a_benchmark_does_not_fill_a_redis_that_has_a_limit() {
    let Some((sandbox, redis)) = with_redis() else {
        return;
    };
    let mut connection = redis.connect();
    let set = ["SET", "maxmemory", "4mb"];
    redis::cmd("CONFIG")
        .arg(&set)
        .exec(&mut connection)
        .unwrap();
    let error = sandbox.fails(2, &["bench", "--events", "100000"]);
    assert!(
        error.contains("maxmemory") && error.contains("--events"),
        "{error}"
    );
    assert_eq!(
        connection.keys::<_, Vec<String>>("*").unwrap(),
        Vec::<String>::new()
    );
}

#[test]
fn a_worker_of_a_benchmark_is_no_command_for_people() {
    let sandbox = Sandbox::new();
    let error = sandbox.fails(1, &["bench-worker"]);
    assert!(error.contains("`termitary bench` only"), "{error}");
    assert!(!sandbox.ok(&["--help"]).contains("bench-worker"));
}
