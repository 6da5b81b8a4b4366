//! Single values, read from text: numbers, words, times, secrets.

use std::str::FromStr;
use std::time::Duration;

use axum::http::HeaderValue;

use super::Mistake;

/// The value, where it is there and not empty.
pub(super) fn set(value: Option<&str>) -> Option<&str> {
    value.map(str::trim).filter(|value| !value.is_empty())
}

/// A value that may stand in a file instead, as secrets of containers do.
pub(super) fn secret(
    name: &str,
    value: Option<&str>,
    file: Option<&str>,
) -> Result<Option<String>, Mistake> {
    match (set(value), set(file)) {
        (Some(_), Some(_)) => Err(Mistake::new(format!(
            "{name} and {name}_FILE are both set: unset one of them"
        ))),
        (Some(value), None) => Ok(Some(value.to_owned())),
        (None, Some(file)) => match std::fs::read_to_string(file) {
            Ok(text) if text.trim().is_empty() => Err(Mistake::of(
                &format!("{name}_FILE"),
                file,
                "the file is empty",
            )),
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) => Err(Mistake::of(
                &format!("{name}_FILE"),
                file,
                &format!("cannot be read ({error})"),
            )),
        },
        (None, None) => Ok(None),
    }
}

pub(super) fn parsed<T: FromStr>(
    name: &str,
    value: Option<&str>,
    what: &str,
) -> Result<Option<T>, Mistake> {
    set(value)
        .map(|text| {
            text.parse()
                .map_err(|_| Mistake::of(name, text, &format!("write {what}")))
        })
        .transpose()
}

pub(super) fn choice<T: Copy>(
    name: &str,
    value: Option<&str>,
    choices: &[(&str, T)],
) -> Result<Option<T>, Mistake> {
    let Some(text) = set(value) else {
        return Ok(None);
    };
    let named = |(word, _): &&(&str, T)| text.eq_ignore_ascii_case(word);
    if let Some((_, choice)) = choices.iter().find(named) {
        return Ok(Some(*choice));
    }
    let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
    let way_out = format!("write one of {}", words.join(", "));
    Err(Mistake::of(name, text, &way_out))
}

/// `25`, `25s`, `500ms`, `2m`, `1h`.
pub(super) fn time(name: &str, value: Option<&str>) -> Result<Option<Duration>, Mistake> {
    let Some(text) = set(value) else {
        return Ok(None);
    };
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let millis = match unit.trim() {
        "ms" => Some(1),
        "" | "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let time = number
        .parse::<u64>()
        .ok()
        .zip(millis)
        .and_then(|(n, unit)| n.checked_mul(unit));
    match time {
        // A day: longer is a typing error, and sums with it would overflow.
        Some(millis) if millis <= 86_400_000 => Ok(Some(Duration::from_millis(millis))),
        _ => Err(Mistake::of(
            name,
            text,
            "write a time of at most a day, such as 25s, 500ms or 2m",
        )),
    }
}

/// `400d`, `400`, or `forever`, which is none.
pub(super) fn days(
    name: &str,
    value: Option<&str>,
    default: Option<Duration>,
) -> Result<Option<Duration>, Mistake> {
    let Some(text) = set(value) else {
        return Ok(default);
    };
    if text.eq_ignore_ascii_case("forever") {
        return Ok(None);
    }
    match text.strip_suffix('d').unwrap_or(text).trim_end().parse() {
        // A century: sums with more would leave the calendar.
        Ok(days @ 1..=36_500) => Ok(Some(termitary::clock::days(days))),
        _ => Err(Mistake::of(
            name,
            text,
            "write a number of days from 1d to 36500d, such as 400d, or forever",
        )),
    }
}

/// A whole number within bounds.
pub(super) fn number(
    name: &str,
    value: Option<&str>,
    (least, most): (usize, usize),
    default: usize,
) -> Result<usize, Mistake> {
    let way_out = format!("a number from {least} to {most}, such as {default}");
    let number = parsed(name, value, &way_out)?.unwrap_or(default);
    if (least..=most).contains(&number) {
        return Ok(number);
    }
    Err(Mistake::of(
        name,
        &number.to_string(),
        &format!("write {way_out}"),
    ))
}

/// Origins of pages, separated by commas, as browsers send them.
pub(super) fn origins(name: &str, value: Option<&str>) -> Result<Vec<HeaderValue>, Mistake> {
    let parts = set(value).unwrap_or_default().split(',').map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(|part| origin(part).ok_or_else(|| Mistake::of(name, part, WAY_OUT_OF_ORIGINS)))
        .collect()
}

const WAY_OUT_OF_ORIGINS: &str = "not an origin. Write scheme, host and port as a browser sends them, such as https://app.example.com or http://localhost:5173, several with commas; `*` is not taken: name each";

fn origin(text: &str) -> Option<HeaderValue> {
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))?;
    let fits =
        |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase() || b"-._:[]".contains(&byte);
    (!host.is_empty() && host.bytes().all(fits))
        .then(|| HeaderValue::from_str(text).ok())
        .flatten()
}
