//! What others wrote is shown, not executed: one function for each place where text ends up.
//!
//! Names, reasons and output come from users, payloads and other hosts. A terminal acts on escape sequences, a log reader
//! takes a line for one event and `key="value"` for what the program said, and bidirectional and invisible characters make a
//! text look like another one. Text from outside goes through one of these functions, whatever it is believed to hold.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character changes how the text around it is read: control characters, line and paragraph separators, format
/// characters (general category Cf, among them everything bidirectional), and letters that are drawn as nothing.
pub fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(u32::from(c),
            0xad | 0x34f | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x890..=0x891 | 0x8e2
            | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x180b..=0x180f
            | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0x3164 | 0xfeff | 0xffa0 | 0xfff0..=0xfffb
            | 0x110bd | 0x110cd | 0x13430..=0x1343f | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff)
}

fn escaped(text: &str, special: impl Fn(char) -> bool, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(&special) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if special(c) { escape(c, &mut shown) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

fn code_point(c: char, to: &mut String) {
    // Writing to a string cannot fail.
    let _ = match c {
        '\n' => write!(to, "\\n"),
        '\r' => write!(to, "\\r"),
        '\t' => write!(to, "\\t"),
        '"' | '\\' => write!(to, "\\{c}"),
        c => write!(to, "\\u{{{:x}}}", u32::from(c)),
    };
}

/// For a line of a log: never more than one line, and nothing in it hides or reverses what follows.
pub fn log_line(text: &str) -> Cow<'_, str> {
    escaped(text, misleads, code_point)
}

/// For a value between double quotes on a line of a log: it cannot end the quotes, so it cannot forge another field.
pub fn log_value(text: &str) -> Cow<'_, str> {
    escaped(text, |c| misleads(c) || matches!(c, '"' | '\\'), code_point)
}

/// For one line on a terminal or in a table for people: what misleads becomes U+FFFD, so that columns stay aligned.
pub fn terminal(text: &str) -> Cow<'_, str> {
    escaped(text, misleads, |_, to| to.push(char::REPLACEMENT_CHARACTER))
}

/// For several lines on a terminal, such as the output of a program: line feeds and tabs stay, a carriage return before a
/// line feed goes, and everything else that misleads is written out.
pub fn terminal_text(text: &str) -> Cow<'_, str> {
    let text =
        if text.contains("\r\n") { Cow::Owned(text.replace("\r\n", "\n")) } else { Cow::Borrowed(text) };
    match escaped(&text, |c| misleads(c) && !matches!(c, '\n' | '\t'), code_point) {
        Cow::Owned(shown) => Cow::Owned(shown),
        Cow::Borrowed(_) => text,
    }
}

/// For JSON that was serialized already: what misleads can only stand inside strings there, and becomes `\uXXXX`. The line
/// feeds between the parts stay; those inside strings are escaped before.
pub fn json(serialized: &str) -> Cow<'_, str> {
    escaped(
        serialized,
        |c| misleads(c) && !matches!(c, '\n' | '\t' | '\r'),
        |c, to| {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(to, "\\u{unit:04x}");
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What has been used to steer terminals, to forge log lines, and to make text look like other text.
    const CORPUS: [&str; 22] = [
        "\x1b[31mred\x1b[0m",
        "\x1b]0;title\x07",
        "\x1b]52;c;ZXZpbA==\x07",
        "\x1b[2J\x1b[H",
        "\u{9b}31m",
        "a\rb",
        "a\nb: done",
        "a\r\nb",
        "a\x08\x08b",
        "nul\0nul",
        "tab\tstop",
        "del\x7f",
        "user\u{202e}toor",
        "\u{2066}isolate\u{2069}",
        "\u{200e}\u{200f}\u{61c}marks",
        "line\u{2028}separator\u{2029}",
        "zero\u{200b}width\u{feff}",
        "soft\u{ad}hyphen",
        "filler\u{3164}\u{115f}",
        "tag\u{e0041}\u{e007f}",
        "interlinear\u{fff9}x\u{fffb}",
        "next\u{85}line",
    ];

    #[test]
    fn nothing_of_the_corpus_reaches_a_reader() {
        for text in CORPUS {
            for (sink, shown) in
                [("log", log_line(text)), ("value", log_value(text)), ("terminal", terminal(text))]
            {
                assert!(!shown.chars().any(misleads), "{sink}: {text:?} is shown as {shown:?}");
            }
            let shown = terminal_text(text);
            assert!(
                !shown.chars().any(|c| misleads(c) && c != '\n' && c != '\t'),
                "{text:?} is shown as {shown:?}"
            );
            assert_eq!(log_line(&log_line(text)), log_line(text), "{text:?}");
        }
    }

    #[test]
    fn plain_text_of_any_language_stays_as_it_is() {
        for text in ["", "plain", "Jürgen Müller", "Ελλάδα", "日本語", "שלום", "a=\u{1f600}"] {
            for shown in [log_line(text), log_value(text), terminal(text), terminal_text(text), json(text)] {
                assert_eq!(shown, text);
            }
        }
        assert_eq!(terminal_text("a\tb\nc\r\nd"), "a\tb\nc\nd");
    }

    #[test]
    fn a_value_cannot_leave_its_quotes() {
        assert_eq!(log_value("x\" account=\"root"), "x\\\" account=\\\"root");
        assert_eq!(log_value("back\\slash"), "back\\\\slash");
        assert_eq!(log_line("a\nb\u{202e}"), "a\\nb\\u{202e}");
    }

    #[test]
    fn json_stays_json() {
        assert_eq!(
            json("{\n  \"a\": \"\u{202e}x\u{e0041}\"\n}"),
            "{\n  \"a\": \"\\u202ex\\udb40\\udc41\"\n}"
        );
    }
}
