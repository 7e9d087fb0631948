//! Plots as SVG text: bars and lines. Pure; no script, no font, no file of anybody else.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 230.0;
const RIGHT: f64 = 90.0;
const BAR: f64 = 22.0;
const COLOURS: [&str; 6] = ["#1f6f54", "#b5532a", "#3d5a98", "#8a6d1f", "#7a3f7a", "#555555"];

/// A colour for a contender: the first is always the first.
pub(crate) fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

/// A bar: what it is of, its colour's number, how long it is.
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) colour: usize,
    pub(crate) value: f64,
}

/// Bars from zero, with their values beside them.
pub(crate) fn bars(title: &str, unit: &str, bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let height = 34.0 + bars.len() as f64 * (BAR + 6.0);
    let mut svg = open(title, height);
    for (number, bar) in bars.iter().enumerate() {
        let y = 30.0 + number as f64 * (BAR + 6.0);
        let length = if most > 0.0 { bar.value / most * (WIDTH - LEFT - RIGHT) } else { 0.0 };
        let _ = write!(
            svg,
            "<text x='{x}' y='{ty}' text-anchor='end'>{label}</text><rect x='{LEFT}' y='{y}' width='{length:.1}' \
             height='{BAR}' fill='{fill}'/><text x='{vx:.1}' y='{ty}'>{value} {unit}</text>",
            x = LEFT - 8.0,
            ty = y + BAR * 0.7,
            label = escaped(&bar.label),
            fill = colour(bar.colour),
            vx = LEFT + length + 6.0,
            value = number_text(bar.value),
            unit = escaped(unit),
        );
    }
    svg + "</svg>\n"
}

/// A line: its name, its colour's number, its points.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) colour: usize,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Lines over two axes from zero.
pub(crate) fn lines(title: &str, x_name: &str, y_name: &str, lines: &[Line]) -> String {
    const HEIGHT: f64 = 300.0;
    const X0: f64 = 70.0;
    const X1: f64 = WIDTH - 20.0;
    const Y0: f64 = HEIGHT - 40.0;
    const Y1: f64 = 34.0;
    let all = || lines.iter().flat_map(|line| &line.points);
    let most_x = all().map(|(x, _)| *x).fold(0.0, f64::max).max(1e-9);
    let most_y = all().map(|(_, y)| *y).fold(0.0, f64::max).max(1e-9);
    let at = |x: f64, y: f64| (X0 + x / most_x * (X1 - X0), Y0 - y / most_y * (Y0 - Y1));
    let mut svg = open(title, HEIGHT + 18.0 * lines.len() as f64);
    let _ = write!(svg, "<path d='M{X0} {Y1}V{Y0}H{X1}' fill='none' stroke='#888'/>");
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        let (x, y) = at(most_x * share, most_y * share);
        let _ = write!(
            svg,
            "<text x='{x:.1}' y='{ly}' text-anchor='middle'>{xt}</text><text x='{lx}' y='{ty:.1}' \
             text-anchor='end'>{yt}</text>",
            ly = Y0 + 16.0,
            xt = number_text(most_x * share),
            lx = X0 - 6.0,
            ty = y + 4.0,
            yt = number_text(most_y * share),
        );
    }
    let _ = write!(
        svg,
        "<text x='{X1}' y='{y}' text-anchor='end'>{x_name}</text><text x='{X0}' y='{yy}'>{y_name}</text>",
        y = Y0 + 32.0,
        yy = Y1 - 6.0,
        x_name = escaped(x_name),
        y_name = escaped(y_name),
    );
    for (number, line) in lines.iter().enumerate() {
        let points = line.points.iter().map(|(x, y)| at(*x, *y));
        let path: Vec<String> = points.clone().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let fill = colour(line.colour);
        let _ = write!(svg, "<polyline points='{}' fill='none' stroke='{fill}' stroke-width='2'/>", path.join(" "));
        for (x, y) in points.filter(|_| line.points.len() < 20) {
            let _ = write!(svg, "<circle cx='{x:.1}' cy='{y:.1}' r='3.5' fill='{fill}'/>");
        }
        let y = HEIGHT + 18.0 * number as f64 + 6.0;
        let _ = write!(
            svg,
            "<rect x='{X0}' y='{ry}' width='14' height='10' fill='{fill}'/><text x='{tx}' y='{y}'>{name}</text>",
            ry = y - 9.0,
            tx = X0 + 20.0,
            name = escaped(&line.name),
        );
    }
    svg + "</svg>\n"
}

fn open(title: &str, height: f64) -> String {
    format!(
        "<svg viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}' role='img' aria-label='{title}' \
         xmlns='http://www.w3.org/2000/svg' font-family='sans-serif' font-size='12' fill='currentColor'>\
         <text x='0' y='14' font-weight='bold'>{title}</text>",
        title = escaped(title)
    )
}

/// Text that is no markup.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;").replace('"', "&quot;")
}

/// A number for people: three digits that say something, thousands apart.
pub(crate) fn number_text(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let size = value.abs();
    let decimals = if size >= 100.0 || size == 0.0 {
        0
    } else if size >= 10.0 {
        1
    } else if size >= 1.0 {
        2
    } else {
        3
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), String::new()), |(w, r)| (w, format!(".{r}")));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_grouped() {
        let texts = [1_234_567.0, 999.6, 45.67, 1.234, 0.0456, 0.0, -12_345.0, f64::NAN].map(number_text);
        assert_eq!(texts, ["1,234,567", "1,000", "45.7", "1.23", "0.046", "0", "-12,345", "-"]);
    }

    #[test]
    fn a_bar_is_as_long_as_its_share_of_the_longest() {
        let bar = |value| Bar { label: "a<b".into(), colour: 0, value };
        let svg = bars("t", "ms", &[bar(10.0), bar(5.0)]);
        assert!(svg.contains("width='400.0'") && svg.contains("width='200.0'"), "{svg}");
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b"));
    }

    #[test]
    fn a_line_ends_in_the_corners_of_its_axes() {
        let line = Line { name: "n".into(), colour: 0, points: vec![(0.0, 0.0), (4.0, 8.0)] };
        let svg = lines("t", "x", "y", &[line]);
        assert!(svg.contains("points='70.0,260.0 700.0,34.0'"), "{svg}");
        assert!(lines("t", "x", "y", &[]).ends_with("</svg>\n"), "also where there is nothing");
    }
}
