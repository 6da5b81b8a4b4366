//! The CPU and memory of a process, read from `/proc` (Linux only).

use std::path::PathBuf;

/// The unit of CPU times in `/proc`: the kernel reports this one on every machine.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process: this one, or another by its id.
#[derive(Clone, Copy)]
pub(crate) enum Process {
    Own,
    Other(u32),
}

impl Process {
    fn file(self, name: &str) -> PathBuf {
        let id = match self {
            Self::Own => "self".to_owned(),
            Self::Other(id) => id.to_string(),
        };
        ["/proc", &id, name].iter().collect()
    }

    /// Seconds of CPU so far, user and system, in hundredths.
    pub(crate) fn cpu_seconds(self) -> Option<f64> {
        cpu_seconds(&std::fs::read_to_string(self.file("stat")).ok()?)
    }

    /// The most bytes that were resident at once.
    pub(crate) fn peak_resident_bytes(self) -> Option<u64> {
        kilobytes(
            &std::fs::read_to_string(self.file("status")).ok()?,
            "VmHWM:",
        )
    }
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the program's name, which may contain any character.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let user: f64 = times.next()?.parse().ok()?;
    let system: f64 = times.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// The bytes of a `Name:  123 kB` line.
pub(crate) fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(number * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_are_found_behind_any_program_name() {
        let stat = "7 (a ) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 5 0 99 1 1";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("7"), None);
    }

    #[test]
    fn kilobytes_become_bytes() {
        assert_eq!(
            kilobytes("VmRSS:\t 9 kB\nVmHWM:\t 12 kB\n", "VmHWM:"),
            Some(12_288)
        );
        assert_eq!(kilobytes("", "VmHWM:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_used_something() {
        assert!(Process::Own.cpu_seconds().is_some());
        assert!(
            Process::Own
                .peak_resident_bytes()
                .is_some_and(|bytes| bytes > 0)
        );
    }
}
