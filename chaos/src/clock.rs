//! One clock for the histories of all processes: the uptime of the machine. Wall clocks jump here,
//! on purpose.

/// Milliseconds since the machine started, in steps of ten.
pub(crate) fn now_ms() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split(' ').next().and_then(|s| s.parse::<f64>().ok());
    (seconds.unwrap_or_default() * 1000.0) as u64
}
