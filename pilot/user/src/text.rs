//! Text for people: tables that fit the terminal, ages, colours only where they are seen.

use console::{Color, Style, Term, measure_text_width, truncate_str};
use pilot_api::PayloadState;

/// Colours for standard output; without effect when that is no terminal or `NO_COLOR` is set.
pub fn style_of(state: PayloadState) -> Style {
    let style = Style::new().for_stdout();
    match state {
        PayloadState::Done => style.fg(Color::Green),
        PayloadState::Failed | PayloadState::Killed => style.fg(Color::Red),
        PayloadState::Running | PayloadState::Matched | PayloadState::Completing => style.fg(Color::Cyan),
        PayloadState::Held => style.fg(Color::Yellow),
        PayloadState::Received | PayloadState::Waiting => style,
    }
}

/// Width of the terminal; endless when standard output is something else.
pub fn width() -> usize {
    Term::stdout().size_checked().map_or(usize::MAX, |(_, columns)| usize::from(columns))
}

/// One line that cannot steer the terminal: what others wrote is shown.
pub fn clean(text: &str) -> String {
    identity::shown::terminal(text).into_owned()
}

/// `42s`, `3m12s`, `5h01m`, `8d`.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..172_800 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Seconds from a time of the queue until now.
pub fn age(since: u64) -> String {
    let now = jiff::Timestamp::now().as_second();
    span(u64::try_from(now).unwrap_or(0).saturating_sub(since))
}

/// A time of the queue in UTC.
pub fn time(seconds: u64) -> String {
    let known = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    known.map_or_else(|| seconds.to_string(), |t| t.to_string())
}

/// `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Lays rows out in columns. Columns that can be spared are left out, in the order given, until the others fit into
/// `width`. The last column takes what is left; cells that do not fit end in `…`.
pub fn table(head: &[&str], rows: &[Vec<String>], width: usize, spared: &[&str]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| measure_text_width(cell)).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(measure_text_width(cell));
        }
    }
    let kept = kept(head, &widths, width, spared);
    let pick = |row: &[String]| -> Vec<String> { kept.iter().filter_map(|n| row.get(*n).cloned()).collect() };
    let widths: Vec<usize> = kept.iter().map(|n| widths[*n]).collect();
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let lines = std::iter::once(&head).chain(rows).map(|row| line(&pick(row), &widths, width));
    lines.collect()
}

/// The numbers of the columns that are shown. The last one may be cut, but not to less than [`LAST`].
fn kept(head: &[&str], widths: &[usize], width: usize, spared: &[&str]) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..head.len()).collect();
    let fits = |kept: &[usize]| {
        let (last, others) = kept.split_last().map_or((0, &[][..]), |(last, others)| (widths[*last], others));
        others.iter().map(|n| widths[*n] + GAP).sum::<usize>() + last.min(LAST) <= width
    };
    for name in spared {
        if fits(&kept) {
            break;
        }
        kept.retain(|n| head[*n] != *name);
    }
    kept
}

/// Blanks between two columns.
const GAP: usize = 2;
/// The last column of a table is readable from this width on.
const LAST: usize = 24;

/// Breaks a line at blanks so that it fits into `width` behind a margin of `margin` blanks, which all lines but the first
/// begin with. A word that is longer stays whole: it can still be copied.
pub fn wrap(text: &str, margin: usize, width: usize) -> String {
    let (mut lines, mut used) = (String::new(), 0);
    for word in text.split(' ') {
        let length = measure_text_width(word);
        if used > 0 && margin.saturating_add(used + 1 + length) > width {
            lines.push('\n');
            lines.push_str(&" ".repeat(margin));
            used = 0;
        } else if used > 0 {
            lines.push(' ');
            used += 1;
        }
        lines.push_str(word);
        used += length;
    }
    lines
}

fn line(row: &[String], widths: &[usize], width: usize) -> String {
    let mut text = String::new();
    for (cell, column) in row.iter().zip(widths) {
        if !text.is_empty() {
            text.push_str(&" ".repeat(GAP));
        }
        text.push_str(cell);
        text.push_str(&" ".repeat(column.saturating_sub(measure_text_width(cell))));
    }
    format!("{}\n", truncate_str(text.trim_end(), width, "…"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_fit_the_width_and_align() {
        let rows = vec![vec!["a".into(), "long command line".into()], vec!["bbb".into(), "x".into()]];
        assert_eq!(
            table(&["ID", "COMMAND"], &rows, usize::MAX, &[]),
            "ID   COMMAND\na    long command line\nbbb  x\n"
        );
        let narrow = table(&["ID", "COMMAND"], &rows, 10, &[]);
        assert!(narrow.lines().all(|line| measure_text_width(line) <= 10), "{narrow}");
        assert!(narrow.contains("a    long…"), "{narrow}");
    }

    #[test]
    fn a_narrow_table_spares_columns_in_order() {
        let cell = |length| "x".repeat(length);
        let rows = vec![vec![cell(36), cell(20), cell(4), cell(60)]];
        let head = ["ID", "HOST", "CODE", "COMMAND"];
        let shown = |width| table(&head, &rows, width, &["HOST", "CODE"]).lines().next().unwrap().to_owned();
        assert!(shown(200).contains("HOST") && shown(90).contains("HOST"));
        assert!(!shown(80).contains("HOST") && shown(80).contains("CODE"));
        assert!(!shown(64).contains("CODE") && shown(64).contains("COMMAND"));
        let last = table(&["ID", "DN"], &[vec![cell(36), cell(60)]], 40, &["DN"]);
        assert_eq!(last, format!("ID\n{}\n", cell(36)));
    }

    #[test]
    fn long_lines_are_broken_at_blanks_and_words_stay_whole() {
        assert_eq!(wrap("one two three", 2, 9), "one two\n  three");
        assert_eq!(wrap("one two  three", 2, usize::MAX), "one two  three");
        assert_eq!(wrap("a 0123456789 b", 4, 8), "a\n    0123456789\n    b");
        assert_eq!(wrap("", 4, 8), "");
    }

    #[test]
    fn colours_do_not_disturb_the_columns() {
        let red = Style::new().force_styling(true).red().apply_to("bad").to_string();
        let text = table(&["STATE", "ID"], &[vec![red, "1".into()]], usize::MAX, &[]);
        let plain = console::strip_ansi_codes(&text);
        assert_eq!(plain, "STATE  ID\nbad    1\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\nc"), "a\u{fffd}[31mb\u{fffd}c");
        assert_eq!(clean("user\u{202e}toor"), "user\u{fffd}toor");
    }

    #[test]
    fn spans_are_short() {
        assert_eq!([span(5), span(65), span(3700), span(200_000)], ["5s", "1m05s", "1h01m", "2d"]);
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
    }
}
