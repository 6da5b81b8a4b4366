//! The machine that the figures depend on.

use crate::process::kilobytes;
use crate::report::Machine;

pub(crate) fn facts() -> Machine {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    Machine {
        cpu: model(&read("/proc/cpuinfo")),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: kilobytes(&read("/proc/meminfo"), "MemTotal:"),
        system: format!("{} {}", std::env::consts::OS, release.trim())
            .trim_end()
            .to_owned(),
    }
}

fn model(cpuinfo: &str) -> Option<String> {
    let (_, name) = cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(field, _)| field.trim() == "model name")?;
    Some(name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cpu_names_the_machine() {
        let cpuinfo =
            "processor\t: 0\nmodel name\t: Fast 9000\nprocessor\t: 1\nmodel name\t: Other\n";
        assert_eq!(model(cpuinfo).as_deref(), Some("Fast 9000"));
        assert_eq!(model(""), None);
    }
}
