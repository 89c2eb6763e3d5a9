//! Usage records: written by root, read back by everybody's tools after crashes and full disks.

use record::line;
use record::{Spool, State};

const ID: &str = "0197d1c2-0000-7000-8000-000000000001";

/// CRC-32C bit by bit, as RFC 3720 defines it: the reference for the table of the crate.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0x82F6_3B78 } else { c >> 1 })
    })
}

/// Puts the right checksum behind an object without its closing brace: else no mutation gets past it.
pub fn signed(body: &[u8]) -> Vec<u8> {
    let sum = crc32c(&[body, b"}"].concat());
    [body, format!(",\"crc32c\":\"{sum:08x}\"}}").as_bytes()].concat()
}

/// One line, as it is and with a right checksum.
pub fn line(data: &[u8]) {
    for bytes in [data.to_vec(), signed(data)] {
        let Ok(read) = line::decode(&bytes) else { continue };
        let Some(event) = &read.event else { continue };
        let text = line::encode(read.seq, read.written_unix_ns, event).expect("events are plain data");
        let text = text.strip_suffix(b"\n").expect("a line ends with its newline");
        assert!(!text.contains(&b'\n'), "an event takes two lines");
        assert_eq!(line::decode(text).as_ref(), Ok(&read));
    }
}

/// A whole file in a spool. Lines get their checksum; one that begins with `!` stands as it is.
pub fn file(data: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory for temporary files");
    std::fs::create_dir(dir.path().join("open")).expect("a directory of our own");
    let pieces = data.split(|b| *b == b'\n').map(|line| match line.strip_prefix(b"!") {
        Some(raw) => raw.to_vec(),
        None => signed(line),
    });
    let text = pieces.collect::<Vec<_>>().join(&b'\n');
    std::fs::write(dir.path().join("open").join(format!("{ID}.jsonl")), text).expect("a file of our own");
    let spool = Spool::new(dir.path());
    let lines = spool.lines(ID);
    if let Ok(record) = spool.record(ID) {
        assert_eq!(record.id, ID);
        assert!(record.opened.is_some() || record.denied.is_some());
        assert!(record.state == State::Running || record.end_unix_ns.is_some());
        record.start_unix_ns();
        assert!(lines.is_ok_and(|l| l.iter().enumerate().all(|(n, line)| line.seq == n as u64)));
    }
}
