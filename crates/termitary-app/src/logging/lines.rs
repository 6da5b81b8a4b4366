//! The queue of log lines: bounded, with one thread that writes to stderr.
//!
//! A reader of stderr that blocks (`| less`, a stuck log driver) blocks the thread and
//! fills the queue. Then lines are counted and dropped, and a line with their number
//! follows as soon as there is room again.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use termitary::clock::Clock;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::escape;

/// The most bytes that wait.
const MOST: usize = 4 * 1024 * 1024;
/// The most bytes of one write of several lines, so that lines of several processes on
/// one pipe do not mix.
const TOGETHER: usize = 4096;
/// The pause before a retry on a non-blocking descriptor.
const PAUSE: Duration = Duration::from_millis(20);
const DROPPED: &str = "termitary_log_lines_dropped_total";

/// A handle to the queue; cheap to clone.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// Notified with each line.
    more: Condvar,
    /// Notified when everything is written.
    empty: Condvar,
    json: AtomicBool,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    /// The bytes that wait or are being written.
    bytes: usize,
    writing: bool,
    /// Lines are refused until half of the queue is free.
    full: bool,
    /// Dropped lines that are not reported yet.
    dropped: u64,
}

impl Lines {
    /// Starts the thread that writes to `out`.
    pub(super) fn to(out: impl Write + Send + 'static) -> Self {
        let lines = Self(Arc::new(Shared {
            queue: Mutex::default(),
            more: Condvar::new(),
            empty: Condvar::new(),
            json: AtomicBool::new(false),
        }));
        let writer = lines.clone();
        let thread = std::thread::Builder::new().name("log".to_owned());
        // Without a thread the queue fills, and lines are dropped.
        let _ = thread.spawn(move || writer.write_to(out));
        lines
    }

    /// Sets whether the queue's own lines are JSON.
    pub(super) fn set_json(&self, json: bool) {
        self.0.json.store(json, Ordering::Relaxed);
    }

    /// Adds a line, or counts it if the queue is full. Never waits for the reader.
    pub(super) fn push(&self, line: Vec<u8>) {
        let mut queue = self.0.lock();
        if !queue.takes(line.len()) {
            queue.dropped += 1;
            drop(queue);
            metrics::counter!(DROPPED).increment(1);
            return;
        }
        self.note_dropped(&mut queue);
        queue.add(line);
        drop(queue);
        self.0.more.notify_one();
    }

    /// Waits until everything is written, for at most `timeout`.
    pub(super) fn flush(&self, timeout: Duration) {
        let queue = self.0.lock();
        let busy = |queue: &mut Queue| queue.bytes > 0 || queue.writing;
        drop(self.0.empty.wait_timeout_while(queue, timeout, busy));
    }

    /// Adds the line that reports dropped lines at this place.
    fn note_dropped(&self, queue: &mut Queue) {
        let dropped = std::mem::take(&mut queue.dropped);
        if dropped > 0 {
            queue.add(self.note(dropped));
        }
    }

    fn note(&self, dropped: u64) -> Vec<u8> {
        let now = Clock::system().now();
        let text = match dropped {
            1 => "1 log line was dropped: nobody read stderr".to_owned(),
            _ => format!("{dropped} log lines were dropped: nobody read stderr"),
        };
        let line = if self.0.json.load(Ordering::Relaxed) {
            serde_json::json!({ "timestamp": now, "level": "WARN", "message": text, "dropped": dropped }).to_string()
        } else {
            format!("{now}  WARN {text}")
        };
        format!("{line}\n").into_bytes()
    }

    fn write_to(&self, mut out: impl Write) {
        loop {
            let lines = self.next();
            let whole: Vec<u8> = lines.concat();
            if write_all(&mut out, &whole).is_err() {
                metrics::counter!(DROPPED).increment(lines.len() as u64);
            }
            let mut queue = self.0.lock();
            queue.bytes -= whole.len();
            queue.writing = false;
        }
    }

    /// Waits for lines.
    fn next(&self) -> Vec<Vec<u8>> {
        let mut queue = self.0.lock();
        while queue.lines.is_empty() && queue.dropped == 0 {
            self.0.empty.notify_all();
            queue = self
                .0
                .more
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if queue.lines.is_empty() {
            self.note_dropped(&mut queue);
        }
        queue.take()
    }
}

impl Queue {
    fn takes(&mut self, bytes: usize) -> bool {
        if self.full && self.bytes > MOST / 2 {
            return false;
        }
        self.full = self.bytes + bytes > MOST;
        !self.full
    }

    fn add(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.lines.push_back(line);
    }

    /// Lines for one write: one, or as many as fit together.
    fn take(&mut self) -> Vec<Vec<u8>> {
        let (mut bytes, mut count) = (0, 0);
        for line in &self.lines {
            bytes += line.len();
            if count > 0 && bytes > TOGETHER {
                break;
            }
            count += 1;
        }
        self.writing = count > 0;
        self.lines.drain(..count).collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No change can panic halfway.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// [`Write::write_all`], also for a descriptor that another program made non-blocking.
fn write_all(out: &mut impl Write, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    }
    out.flush()
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The subscriber writes each line at once.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        if self.0.json.load(Ordering::Relaxed) {
            self.push(ascii_controls(line));
        } else {
            self.push(line.to_vec());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A line of JSON with every control character escaped. JSON asks for it only below U+0020, but
/// terminals obey others too.
fn ascii_controls(line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(line);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && escape(c.encode_utf8(&mut [0; 4])).len() > c.len_utf8() {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_time_and_is_told_how_many() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let lines = Lines::to(writer);
        let line = vec![b'x'; 1023];
        let sent = 10_000;
        for _ in 0..sent {
            lines.push([&line[..], b"\n"].concat());
        }
        // Nobody has read: this ends all the same.
        lines.flush(Duration::from_millis(10));
        let dropped = lines.0.lock().dropped;
        assert!(dropped > 5_000, "{dropped}");

        let mut text = Vec::new();
        let note = format!("{dropped} log lines were dropped: nobody read stderr\n");
        while !text.ends_with(note.as_bytes()) {
            let mut some = vec![0; 65_536];
            let read = reader.read(&mut some).unwrap();
            text.extend_from_slice(&some[..read]);
        }
        let whole = text.split(|&byte| byte == b'\n').filter(|l| **l == line);
        assert_eq!(whole.count() as u64 + dropped, sent);

        lines.push(b"after\n".to_vec());
        let mut after = [0; 6];
        reader.read_exact(&mut after).unwrap();
        assert_eq!(&after, b"after\n");
    }

    #[test]
    fn a_line_of_json_has_no_control_characters_and_the_same_meaning() {
        let name = "todos\u{9b}1m\u{7f}\u{202e}é";
        let line = serde_json::json!({ "name": name }).to_string() + "\n";
        let shown = String::from_utf8(ascii_controls(line.as_bytes())).unwrap();
        assert_eq!(escape(shown.trim_end()), shown.trim_end());
        let read: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(read["name"], name);
    }

    #[test]
    fn the_note_is_json_where_the_log_is() {
        let lines = Lines::to(std::io::sink());
        lines.set_json(true);
        let note: serde_json::Value = serde_json::from_slice(&lines.note(3)).unwrap();
        assert_eq!(
            (&note["level"], &note["dropped"]),
            (&"WARN".into(), &3.into())
        );
    }

    #[test]
    fn a_reader_that_is_gone_stops_nothing() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let lines = Lines::to(writer);
        for _ in 0..100 {
            lines.push(vec![b'x'; 1024]);
        }
        lines.flush(Duration::from_mins(1));
        assert_eq!(lines.0.lock().bytes, 0);
    }
}
