//! Markdown tables and the numbers in them.

use super::samples::Spread;

/// A table with a head; numbers are aligned to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n| --- |", head.join(" | "));
    text.push_str(&" ---: |".repeat(head.len().saturating_sub(1)));
    text.push('\n');
    for row in rows {
        text.push_str("| ");
        text.push_str(&row.join(" | "));
        text.push_str(" |\n");
    }
    text
}

/// `12,345` for large numbers, two significant digits for small ones.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let plain = format!("{value:.digits$}");
    let (whole, rest) = plain.split_once('.').unwrap_or((&plain, ""));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if !rest.is_empty() {
        grouped.push('.');
        grouped.push_str(rest);
    }
    grouped
}

/// The median with the minimum and the maximum.
pub(crate) fn spread(spread: Option<Spread>, scale: f64) -> String {
    let Some(Spread { median, min, max }) = spread else {
        return "–".to_owned();
    };
    let [median, min, max] = [median, min, max].map(|value| number(value * scale));
    if min == max {
        return median;
    }
    format!("{median} ({min}–{max})")
}

/// A median alone.
pub(crate) fn median(spread: Option<Spread>, scale: f64) -> String {
    spread.map_or_else(|| "–".to_owned(), |found| number(found.median * scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_short() {
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(123.4), "123");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(0.123), "0.12");
        assert_eq!(number(0.0), "0");
    }

    #[test]
    fn a_spread_shows_its_ends_and_nothing_is_a_dash() {
        let found = Spread {
            median: 2000.0,
            min: 1000.0,
            max: 3000.0,
        };
        assert_eq!(spread(Some(found), 0.001), "2.00 (1.00–3.00)");
        assert_eq!(spread(None, 1.0), "–");
    }

    #[test]
    fn a_table_is_markdown() {
        let rows = [vec!["raw".to_owned(), "1".to_owned()]];
        assert_eq!(
            table(&["system", "rate"], &rows),
            "| system | rate |\n| --- | ---: |\n| raw | 1 |\n"
        );
    }
}
