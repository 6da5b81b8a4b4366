//! Plots as SVG text: panels of bars or of lines, one above the other.

use std::fmt::Write as _;

use super::samples::Spread;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 130.0;
const RIGHT: f64 = 610.0;
const BAR: f64 = 24.0;
const PLOT: f64 = 150.0;

/// Readable on light and dark pages.
const STYLE: &str = "\
.bg{fill:#ffffff}text{fill:#1f2328;font:13px system-ui,sans-serif}.small{fill:#59636e;font-size:12px}\
.title{font-weight:600}.ours{fill:#1a7f4b}.raw{fill:#b9c0c9}.peer{fill:#8494c4}.line{stroke:#d0d7de}\
.whisker{stroke:#1f2328;stroke-opacity:.55}.s0{stroke:#1a7f4b;fill:#1a7f4b}.s1{stroke:#3b5bdb;fill:#3b5bdb}\
@media (prefers-color-scheme:dark){.bg{fill:#0d1117}text{fill:#e6edf3}.small{fill:#9198a1}.raw{fill:#57606a}\
.line{stroke:#30363d}.whisker{stroke:#e6edf3}.ours{fill:#2ea866}.s0{stroke:#2ea866;fill:#2ea866}\
.s1{stroke:#7f96ff;fill:#7f96ff}}";

/// One plot.
pub(crate) enum Panel {
    Bars {
        title: String,
        log: bool,
        bars: Vec<Bar>,
    },
    /// Each series over the same logarithmic axis.
    Lines {
        title: String,
        series: Vec<(String, Vec<(f64, Spread)>)>,
    },
}

/// One bar of a panel.
pub(crate) struct Bar {
    pub(crate) label: String,
    /// `ours`, `raw` or `peer`.
    pub(crate) class: &'static str,
    pub(crate) spread: Spread,
    /// The figure with its unit.
    pub(crate) text: String,
}

impl Panel {
    fn height(&self) -> f64 {
        match self {
            Self::Bars { bars, .. } => 44.0 + BAR * bars.len() as f64,
            Self::Lines { .. } => 56.0 + PLOT + 40.0,
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Bars { bars, .. } => bars.is_empty(),
            Self::Lines { series, .. } => series.iter().all(|(_, points)| points.is_empty()),
        }
    }

    fn draw(&self, top: f64, svg: &mut String) {
        match self {
            Self::Bars { title, log, bars } => {
                heading(title, top, svg);
                draw_bars(bars, *log, top + 36.0, svg);
            }
            Self::Lines { title, series } => {
                heading(title, top, svg);
                draw_lines(series, top + 48.0, svg);
            }
        }
    }
}

/// The panels as one SVG; none if nothing was measured.
pub(crate) fn draw(panels: &[Panel]) -> Option<String> {
    let panels: Vec<&Panel> = panels.iter().filter(|panel| !panel.is_empty()).collect();
    if panels.is_empty() {
        return None;
    }
    let height: f64 = panels.iter().map(|panel| panel.height()).sum::<f64>() + 12.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">\n\
         <style>{STYLE}</style>\n<rect class=\"bg\" width=\"{WIDTH}\" height=\"{height}\"/>\n"
    );
    let mut top = 0.0;
    for panel in panels {
        panel.draw(top, &mut svg);
        top += panel.height();
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

fn heading(title: &str, top: f64, svg: &mut String) {
    text(16.0, top + 26.0, "title", "start", title, svg);
}

fn draw_bars(bars: &[Bar], log: bool, top: f64, svg: &mut String) {
    let most = bars.iter().map(|bar| bar.spread.max).fold(1.0, f64::max);
    let least = bars.iter().map(|bar| bar.spread.min).fold(most, f64::min);
    // The bars of a logarithmic scale start a little below the lowest value.
    let base = (least / 2.0).max(1e-9);
    let x = |value: f64| {
        let share = if log {
            (value / base).max(1.0).ln() / (most / base).ln()
        } else {
            value / most
        };
        LEFT + share * (RIGHT - LEFT)
    };
    for (index, bar) in bars.iter().enumerate() {
        let y = top + BAR * index as f64;
        let Spread { median, min, max } = bar.spread;
        text(LEFT - 8.0, y + 14.0, "", "end", &bar.label, svg);
        let _ = writeln!(
            svg,
            "<rect class=\"{}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\"/>",
            bar.class,
            y + 2.0,
            (x(median) - LEFT).max(1.0),
            BAR - 7.0
        );
        let middle = y + 2.0 + (BAR - 7.0) / 2.0;
        line(x(min), middle, x(max), middle, "whisker", svg);
        text(
            x(max.max(median)) + 8.0,
            y + 14.0,
            "small",
            "start",
            &bar.text,
            svg,
        );
    }
}

fn draw_lines(series: &[(String, Vec<(f64, Spread)>)], top: f64, svg: &mut String) {
    let points = || series.iter().flat_map(|(_, points)| points);
    let most = points().map(|(_, spread)| spread.max).fold(0.0, f64::max) * 1.1;
    // Zero has a position on the axis, too.
    let place = |at: f64| at.max(1.0).ln();
    let first = points().map(|(at, _)| place(*at)).fold(f64::MAX, f64::min);
    let last = points().map(|(at, _)| place(*at)).fold(first, f64::max);
    let x = |at: f64| LEFT + (place(at) - first) / (last - first).max(1e-9) * (RIGHT - LEFT);
    let y = |value: f64| top + PLOT - value / most * PLOT;

    for share in [0.0, 0.5, 1.0] {
        let value = most * share;
        line(LEFT, y(value), RIGHT, y(value), "line", svg);
        text(
            LEFT - 8.0,
            y(value) + 4.0,
            "small",
            "end",
            &short(value),
            svg,
        );
    }
    let mut ticks: Vec<f64> = points().map(|(at, _)| *at).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    for at in ticks {
        text(x(at), top + PLOT + 20.0, "small", "middle", &short(at), svg);
    }
    for (index, (name, points)) in series.iter().enumerate() {
        let class = format!("s{}", index % 2);
        for pair in points.windows(2) {
            let ((from, a), (to, b)) = (pair[0], pair[1]);
            line(x(from), y(a.median), x(to), y(b.median), &class, svg);
        }
        for (at, spread) in points {
            line(x(*at), y(spread.min), x(*at), y(spread.max), &class, svg);
            let _ = writeln!(
                svg,
                "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\"/>",
                x(*at),
                y(spread.median)
            );
        }
        if let Some((at, spread)) = points.last() {
            text(
                x(*at) + 10.0,
                y(spread.median) + 4.0,
                "",
                "start",
                name,
                svg,
            );
        }
    }
}

/// A number on an axis: `1.5k`, `1M`.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 1e3 => (v / 1e3, "k"),
        v => (v, ""),
    };
    let digits = usize::from(value < 100.0 && value.fract() > 0.05);
    format!("{value:.digits$}{unit}")
}

fn line(x1: f64, y1: f64, x2: f64, y2: f64, class: &str, svg: &mut String) {
    let _ = writeln!(
        svg,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

fn text(x: f64, y: f64, class: &str, anchor: &str, said: &str, svg: &mut String) {
    let said = said.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{said}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(median: f64) -> Spread {
        Spread {
            median,
            min: median * 0.9,
            max: median * 1.1,
        }
    }

    #[test]
    fn bars_and_lines_are_drawn_within_the_picture() {
        let bar = |label: &str, median| Bar {
            label: label.to_owned(),
            class: "peer",
            spread: spread(median),
            text: format!("{median}/s"),
        };
        let panels = [
            Panel::Bars {
                title: "a < b".to_owned(),
                log: true,
                bars: vec![bar("one", 10.0), bar("two", 1e6)],
            },
            Panel::Lines {
                title: "flat".to_owned(),
                series: vec![(
                    "SQLite".to_owned(),
                    vec![(0.0, spread(5.0)), (1e6, spread(6.0))],
                )],
            },
        ];
        let svg = draw(&panels).unwrap_or_default();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a &lt; b"), "text is escaped");
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn nothing_measured_is_no_picture() {
        let empty = Panel::Bars {
            title: String::new(),
            log: false,
            bars: Vec::new(),
        };
        assert_eq!(draw(&[empty]), None);
    }

    #[test]
    fn numbers_on_an_axis_are_short() {
        assert_eq!(short(1_000_000.0), "1M");
        assert_eq!(short(10_000.0), "10k");
        assert_eq!(short(2.5), "2.5");
        assert_eq!(short(0.0), "0");
    }
}
