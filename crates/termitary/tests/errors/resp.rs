//! Just enough of Redis' protocol to tell one frame from the next.

/// The length of the first frame of `buffer`, if it is complete.
pub(crate) fn frame(buffer: &[u8]) -> Option<usize> {
    let end = line(buffer)?;
    let count = || -> i64 { number(&buffer[1..end - 2]) };
    match buffer[0] {
        b'$' | b'!' | b'=' if count() >= 0 => whole(buffer, end + count() as usize + 2),
        b'*' | b'~' | b'>' => frames(buffer, end, count()),
        b'%' => frames(buffer, end, count() * 2),
        b'|' => {
            let after = frames(buffer, end, count() * 2)?;
            Some(after + frame(&buffer[after..])?)
        }
        _ => Some(end),
    }
}

/// The first command of `buffer` as its words, and how long it is. Without
/// words: it is no command of a Redis client.
pub(crate) fn command(buffer: &[u8]) -> Option<(Vec<String>, usize)> {
    let length = frame(buffer)?;
    if buffer[0] != b'*' {
        return Some((Vec::new(), length));
    }
    let mut at = line(buffer)?;
    let mut words = Vec::new();
    while at < length {
        let head = at + line(&buffer[at..])?;
        let size = number(&buffer[at + 1..head - 2]).max(0) as usize;
        words.push(String::from_utf8_lossy(&buffer[head..head + size]).into_owned());
        at = head + size + 2;
    }
    Some((words, length))
}

fn frames(buffer: &[u8], mut at: usize, count: i64) -> Option<usize> {
    for _ in 0..count.max(0) {
        at += frame(buffer.get(at..)?)?;
    }
    Some(at)
}

fn whole(buffer: &[u8], length: usize) -> Option<usize> {
    (buffer.len() >= length).then_some(length)
}

/// The position after the first line, its end included.
fn line(buffer: &[u8]) -> Option<usize> {
    let end = buffer.windows(2).position(|two| two == b"\r\n")?;
    Some(end + 2)
}

fn number(text: &[u8]) -> i64 {
    std::str::from_utf8(text).unwrap().parse().unwrap()
}

#[test]
fn frames_are_told_apart_whole_or_not_at_all() {
    let nested = b"%1\r\n+a\r\n*2\r\n$3\r\nx\r\n\r\n_\r\n+next\r\n";
    assert_eq!(frame(nested), Some(nested.len() - 7));
    for cut in 1..nested.len() - 7 {
        assert_eq!(frame(&nested[..cut]), None, "{cut}");
    }
    assert_eq!(frame(b"$-1\r\n"), Some(5));
    let (words, length) = command(b"*2\r\n$4\r\nXADD\r\n$1\r\nk\r\nmore").unwrap();
    assert_eq!((words.join(" ").as_str(), length), ("XADD k", 21));
}
