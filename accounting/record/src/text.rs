//! Arguments of payloads, made safe and short enough to store.

/// Longest argument that is stored, in bytes; `argv_sha256` covers what is cut off.
pub const MAX_ARGUMENT: usize = 1024;
/// Most arguments that are stored.
pub const MAX_ARGUMENTS: usize = 256;
/// Most bytes of arguments that are stored, all together.
pub const MAX_ARGV: usize = 64 * 1024;

/// Bytes as lower-case hex, two digits each.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes as text: UTF-8 stays, other bytes and control characters become `\xHH`; cut at `limit` bytes with `...`.
pub fn printable(bytes: &[u8], limit: usize) -> String {
    let kept = &bytes[..bytes.len().min(limit)];
    let mut text = String::with_capacity(kept.len());
    for chunk in kept.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                let mut buffer = [0; 4];
                c.encode_utf8(&mut buffer).bytes().for_each(|b| text.push_str(&format!("\\x{b:02X}")));
            } else {
                text.push(c);
            }
        }
        chunk.invalid().iter().for_each(|b| text.push_str(&format!("\\x{b:02X}")));
    }
    if kept.len() < bytes.len() {
        text.push_str("...");
    }
    text
}

/// The arguments as texts, within all three limits; what is left out is counted in a last text.
pub fn capped_argv<'a>(argv: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let (mut kept, mut size, mut left_out) = (Vec::new(), 0, 0_usize);
    for argument in argv {
        let length = argument.len().min(MAX_ARGUMENT);
        if left_out > 0 || kept.len() == MAX_ARGUMENTS || size + length > MAX_ARGV {
            left_out += 1;
            continue;
        }
        size += length;
        kept.push(printable(argument, MAX_ARGUMENT));
    }
    if left_out > 0 {
        kept.push(format!("... {left_out} more"));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_bytes_are_escaped_and_long_texts_cut() {
        assert_eq!(printable("J\u{fc}rgen".as_bytes(), 100), "J\u{fc}rgen");
        assert_eq!(printable(b"a\nb\xFFc\x1b", 100), "a\\x0Ab\\xFFc\\x1B");
        assert_eq!(printable(b"abcdef", 3), "abc...");
    }

    #[test]
    fn an_endless_argv_is_cut_and_says_so() {
        let argv = capped_argv(std::iter::repeat_n(&b"x"[..], 1000));
        assert_eq!(argv.len(), MAX_ARGUMENTS + 1);
        assert_eq!(argv.last().unwrap(), "... 744 more");
        let long = vec![b'y'; 100_000];
        let argv = capped_argv(std::iter::repeat_n(&long[..], 100));
        assert!(argv.iter().map(String::len).sum::<usize>() < MAX_ARGV + 1024);
    }
}
