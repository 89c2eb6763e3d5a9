//! Which signals a program was started with ignored: agent and runner leave those alone (nohup(1)).

/// Signals that are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ignored(u64);

impl Ignored {
    /// Whether this signal is.
    #[must_use]
    pub fn contains(self, number: i32) -> bool {
        (1..=64).contains(&number) && self.0 >> (number - 1) & 1 == 1
    }
}

/// Reads `SigIgn` in the text of `/proc/PID/status` (proc(5)). It is no text in general: a program may have any name.
#[must_use]
pub fn ignored(status: &[u8]) -> Ignored {
    let line = status.split(|c| *c == b'\n').find_map(|line| line.strip_prefix(b"SigIgn:"));
    let text = line.and_then(|line| std::str::from_utf8(line).ok());
    Ignored(text.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_is_read_past_any_name() {
        let set = ignored(b"Name:\t\xff\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n");
        let numbers: Vec<i32> = (-1..=70).filter(|number| set.contains(*number)).collect();
        assert_eq!(numbers, [1, 13]);
        assert_eq!(ignored(b"Name: x\n"), Ignored(0));
    }
}
