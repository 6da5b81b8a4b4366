//! Nothing but its benchmarks: see `benches/hot.rs`.
