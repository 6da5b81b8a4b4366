//! Steps of a cron field that its values cannot take: `*/90` among 60 minutes
//! would fire once an hour, which nobody means by it.

/// A field's name, its lowest value, how many values it has, and their names.
struct Field {
    name: &'static str,
    low: u32,
    values: u32,
    words: &'static [&'static str],
}

const fn field(name: &'static str, low: u32, values: u32) -> Field {
    Field {
        name,
        low,
        values,
        words: &[],
    }
}

const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const FIELDS: [Field; 6] = [
    field("second", 0, 60),
    field("minute", 0, 60),
    field("hour", 0, 24),
    field("day of month", 1, 31),
    Field {
        words: &MONTHS,
        ..field("month", 1, 12)
    },
    Field {
        words: &WEEKDAYS,
        ..field("day of week", 0, 7)
    },
];

/// Names the first step that is larger than the number of values it walks over.
/// Every other mistake is left to the parser.
pub(super) fn check(cron: &str) -> Result<(), String> {
    let parts: Vec<&str> = cron.split_whitespace().collect();
    let Some(first) = FIELDS.len().checked_sub(parts.len()) else {
        return Ok(());
    };
    for (field, text) in FIELDS[first..].iter().zip(parts) {
        for part in text.split(',') {
            check_part(field, part)?;
        }
    }
    Ok(())
}

fn check_part(field: &Field, part: &str) -> Result<(), String> {
    let Some((range, step)) = part.split_once('/') else {
        return Ok(());
    };
    // More digits than a number has are a step too far as well.
    let digits = !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
    let step = step.parse().unwrap_or(if digits { u32::MAX } else { 0 });
    let values = values(field, range);
    if step <= values {
        return Ok(());
    }
    Err(format!(
        "the step of `{part}` in the {} field is larger than the {values} values it walks over: write a step of at most {values}, or the values one by one",
        field.name
    ))
}

/// Number of values in a range.
fn values(field: &Field, range: &str) -> u32 {
    let bounds = range.split_once('-');
    let bounds = bounds.and_then(|(low, high)| Some((value(field, low)?, value(field, high)?)));
    match bounds {
        Some((low, high)) if low <= high => high - low + 1,
        _ => field.values,
    }
}

fn value(field: &Field, text: &str) -> Option<u32> {
    let word = |word: &&str| word.eq_ignore_ascii_case(text);
    let named = field.words.iter().position(word);
    named.map_or_else(|| text.parse().ok(), |place| Some(place as u32 + field.low))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn a_step_beyond_its_field_is_named_with_the_field() {
        for (cron, part, field) in [
            ("*/90 * * * *", "*/90", "minute"),
            ("*/61 * * * * *", "*/61", "second"),
            ("0 */25 * * *", "*/25", "hour"),
            ("0 0 */32 * *", "*/32", "day of month"),
            ("0 0 1 */13 *", "*/13", "month"),
            ("0 0 1 JAN-MAR/4 *", "JAN-MAR/4", "month"),
            ("0 0 * * */8", "*/8", "day of week"),
            ("0 0 * * mon-fri/6", "mon-fri/6", "day of week"),
            ("5,10-20/12 * * * *", "10-20/12", "minute"),
            (
                "*/99999999999999999999 * * * *",
                "*/99999999999999999999",
                "minute",
            ),
        ] {
            let error = check(cron).err().unwrap_or_default();
            let named = format!("`{part}` in the {field} field");
            assert!(error.contains(&named), "{cron}: {error}");
        }
    }

    #[test]
    fn a_step_within_its_field_passes() {
        for cron in [
            "*/15 * * * *",
            "*/60 * * * *",
            "*/30 * * * * *",
            "0 */24 * * *",
            "0 9-17/2 * * MON-FRI",
            "0 0 1 */3 *",
            "0 0 * * 1-5/2",
            "0 0 1-31/31 * *",
            "@hourly",
        ] {
            assert_eq!(check(cron), Ok(()), "{cron}");
        }
    }
}
