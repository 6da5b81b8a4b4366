//! Single values, parsed from text: numbers, words, times, secrets.

use std::str::FromStr;
use std::time::Duration;

use axum::http::HeaderValue;

use super::Mistake;
use super::variables::Variables;

impl Variables {
    /// A value, or the content of the file that `…_FILE` names.
    pub(super) fn secret(&self, name: &str) -> Result<Option<String>, Mistake> {
        let file_name = format!("{name}_FILE");
        match (self.get(name), self.get(&file_name)) {
            (Some(_), Some(_)) => Err(Mistake::new(format!(
                "{name} and {file_name} are both set: unset one of them"
            ))),
            (Some(value), None) => Ok(Some(value.to_owned())),
            (None, Some(file)) => match std::fs::read_to_string(file) {
                Ok(text) if text.trim().is_empty() => {
                    Err(Mistake::of(&file_name, file, "the file is empty"))
                }
                Ok(text) => Ok(Some(text.trim().to_owned())),
                Err(error) => {
                    let cannot = format!("cannot be read ({error})");
                    Err(Mistake::of(&file_name, file, &cannot))
                }
            },
            (None, None) => Ok(None),
        }
    }

    pub(super) fn parsed<T: FromStr>(&self, name: &str, what: &str) -> Result<Option<T>, Mistake> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let parsed = text.parse().map(Some);
        parsed.map_err(|_| Mistake::of(name, text, &format!("write {what}")))
    }

    pub(super) fn choice<T: Copy>(
        &self,
        name: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, Mistake> {
        let Some(text) = self.get(name) else {
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
    pub(super) fn time(&self, name: &str) -> Result<Option<Duration>, Mistake> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let way_out = "write a time of at most a day, such as 25s, 500ms or 2m";
        match time(text) {
            Some(time) => Ok(Some(time)),
            None => Err(Mistake::of(name, text, way_out)),
        }
    }

    /// `400d`, `400`, or `forever`, which is `None`.
    pub(super) fn days(
        &self,
        name: &str,
        default: Option<Duration>,
    ) -> Result<Option<Duration>, Mistake> {
        let Some(text) = self.get(name) else {
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
        &self,
        name: &str,
        (least, most): (usize, usize),
        default: usize,
    ) -> Result<usize, Mistake> {
        let way_out = format!("a number from {least} to {most}, such as {default}");
        let number = self.parsed(name, &way_out)?.unwrap_or(default);
        if (least..=most).contains(&number) {
            return Ok(number);
        }
        let way_out = format!("write {way_out}");
        Err(Mistake::of(name, &number.to_string(), &way_out))
    }

    /// Origins of pages as browsers send them, separated by commas.
    pub(super) fn origins(&self, name: &str) -> Result<Vec<HeaderValue>, Mistake> {
        let parts = self.get(name).unwrap_or_default().split(',').map(str::trim);
        parts
            .filter(|part| !part.is_empty())
            .map(|part| origin(part).ok_or_else(|| Mistake::of(name, part, ORIGINS)))
            .collect()
    }
}

const ORIGINS: &str = "not an origin. Write scheme, host and port as a browser sends them, such as https://app.example.com or http://localhost:5173, several with commas; `*` is not allowed: name each";

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

/// Up to a day: a longer time is a typing error, and sums with it would overflow.
pub(super) fn time(text: &str) -> Option<Duration> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit_ms = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let millis = number.parse::<u64>().ok()?.checked_mul(unit_ms)?;
    (millis <= 86_400_000).then(|| Duration::from_millis(millis))
}
