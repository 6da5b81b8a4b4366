//! Contains only the benchmarks in `benches/hot.rs`.
