//! Text that fits one line of a log.

/// Makes any text fit one log line: control characters and non-ASCII become `\xHH`, 500 characters at most.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(500));
    for byte in text.bytes() {
        let width = if matches!(byte, 0x20..=0x7e) { 1 } else { 4 };
        // The end counts after escaping: a line that passes through here again stays as it is.
        if line.len() + width > 500 {
            break;
        }
        match byte {
            0x20..=0x7e => line.push(char::from(byte)),
            other => line.push_str(&format!("\\x{other:02X}")),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_cannot_break_a_log_line() {
        assert_eq!(one_line("a\nb\u{fc}\u{1b}"), "a\\x0Ab\\xC3\\xBC\\x1B");
    }
}
