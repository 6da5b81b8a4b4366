//! The page of a small run.

use super::*;

const RUN: &str = r#"{
"rounds": 3,
"facts": [["processor", "a small one"], ["Redis", "7.0.15"]],
"failures": ["sqlite/drain/riverqueue: it ended"],
"samples": [
{"row":"redis/publish-64","system":"raw","result":{"perSecond":200000.0}},
{"row":"redis/publish-64","system":"raw","result":{"perSecond":220000.0}},
{"row":"redis/publish-64","system":"raw","result":{"perSecond":100000.0}},
{"row":"redis/publish-64","system":"Termitary","result":{"perSecond":150000.0}},
{"row":"redis/publish-64","system":"BullMQ","result":{"perSecond":30000.0}},
{"row":"redis/drain","system":"raw","result":{"perSecond":100000.0,"events":50000,"cpuSeconds":0.5}},
{"row":"redis/drain","system":"Termitary","result":{"perSecond":10000.0,"events":50000,"cpuSeconds":0.5},"serverCpuSeconds":0.25},
{"row":"redis/drain","system":"BullMQ","result":{"perSecond":20000.0,"events":50000,"cpuSeconds":0.5}},
{"row":"redis/latency","system":"raw","result":{"p50Us":100,"p99Us":400,"p999Us":500,"maxUs":900}},
{"row":"redis/latency","system":"Termitary","result":{"p50Us":140,"p99Us":900,"p999Us":1000,"maxUs":1100}},
{"row":"flat/redis/pending/drain","system":"Termitary","result":{"at":1000,"events":1000,"handledSeconds":0.01,"peakMemory":10485760}},
{"row":"flat/redis/pending/drain","system":"Termitary","result":{"at":1000000,"events":1000,"handledSeconds":0.011,"peakMemory":10485760}},
{"row":"flat/cold-start","system":"Termitary","result":{"seconds":0.05}}
]}"#;

fn page() -> String {
    let Ok(run) = Run::parse(RUN) else {
        unreachable!("the run is JSON")
    };
    let plots = plots::all(&run);
    let drawn: Vec<&str> = plots.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        drawn,
        ["publish.svg", "drain.svg", "latency.svg", "flat.svg"]
    );
    text(&run, &drawn)
}

#[test]
fn the_page_shows_medians_ratios_and_aims() {
    let page = page();
    let lines = [
        "| Redis, publish, 64 concurrent awaits | 200,000/s | 150,000/s | 0.75 ✓ | ≥ 0.7 | BullMQ 30,000/s | 5.0× |",
        "| *raw* | – | 200,000 (100,000–220,000) | – |",
        "| **Termitary** | 10,000 | 1.00 | 0.50 | – |",
        "| Redis | 10.0 | 11.0 | 1.10, at most 1.20 ✓ |",
        "| processor | a small one |",
    ];
    for line in lines {
        assert!(page.contains(line), "{line} is missing in\n{page}");
    }
}

#[test]
fn the_page_says_where_it_loses_and_what_is_missing() {
    let page = page();
    let lines = [
        "- Redis, drain, one worker process: 0.10 of raw, the aim is 0.7.",
        "- the same, p99: 2.25 of raw, the aim is 2.",
        "- redis/drain: BullMQ is ahead, 20,000 /s against 10,000 /s.",
        "- sqlite/drain/riverqueue: it ended",
    ];
    for line in lines {
        assert!(page.contains(line), "{line} is missing in\n{page}");
    }
}

#[test]
fn an_empty_run_is_a_page_without_tables_of_systems() {
    let page = text(&Run::default(), &[]);
    assert!(page.starts_with("# Benchmarks\n"));
    assert!(!page.contains("In short"));
}
