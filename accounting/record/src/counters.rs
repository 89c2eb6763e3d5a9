//! The kernel's counters of a cgroup, read from the bytes of its files. Pure: who opens the files is elsewhere.
//!
//! Files are bytes and not text: a name in them that is not UTF-8 must not hide a number.

/// CPU time of `cpu.stat`, version 2: user and system, microseconds.
pub fn cpu_stat(file: &[u8]) -> Option<(u64, u64)> {
    Some((value(file, b"user_usec")?, value(file, b"system_usec")?))
}

/// Bytes read and written of `io.stat`, version 2, summed over all devices.
pub fn io_stat(file: &[u8]) -> Option<(u64, u64)> {
    let words = || file.split(|b| b.is_ascii_whitespace());
    let sum = |key: &[u8]| {
        let counts = words().filter_map(|word| number(word.strip_prefix(key)?));
        counts.fold(0, u64::saturating_add)
    };
    (!file.is_empty()).then(|| (sum(b"rbytes="), sum(b"wbytes=")))
}

/// Bytes read and written of `blkio.throttle.io_service_bytes`, version 1, summed over all devices.
pub fn io_service_bytes(file: &[u8]) -> Option<(u64, u64)> {
    let (mut read, mut written) = (0_u64, 0_u64);
    for line in file.split(|b| *b == b'\n') {
        let mut words = line.split(|b| *b == b' ').skip(1);
        match (words.next(), words.next().and_then(number)) {
            (Some(b"Read"), Some(bytes)) => read = read.saturating_add(bytes),
            (Some(b"Write"), Some(bytes)) => written = written.saturating_add(bytes),
            _ => {}
        }
    }
    (!file.is_empty()).then_some((read, written))
}

/// Memory in use without the page cache, of `memory.stat`: anonymous and shared, bytes. Version 1 counts its groups below
/// with `total_`, and calls anonymous memory `rss`.
pub fn memory_without_cache(file: &[u8]) -> Option<u64> {
    let two = || Some(value(file, b"anon")?.saturating_add(value(file, b"shmem").unwrap_or(0)));
    let one = || Some(value(file, b"total_rss")?.saturating_add(value(file, b"total_shmem").unwrap_or(0)));
    two().or_else(one)
}

/// How many processes were killed because memory ran out: `memory.events` of version 2, `memory.oom_control` of version 1.
pub fn oom_kills(file: &[u8]) -> Option<u64> {
    value(file, b"oom_kill")
}

/// A file that holds one number.
pub fn number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.trim().parse().ok()
}

/// The number behind a key, on a line of its own.
fn value(file: &[u8], key: &[u8]) -> Option<u64> {
    file.split(|b| *b == b'\n').find_map(|line| number(line.strip_prefix(key)?.strip_prefix(b" ")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read_as_the_kernel_writes_them() {
        let cpu = b"usage_usec 305\nuser_usec 200\nsystem_usec 105\nnr_periods 0\n";
        assert_eq!(cpu_stat(cpu), Some((200, 105)));
        let io = b"8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=2 rios=1 wios=1\n";
        assert_eq!(io_stat(io), Some((4097, 8194)));
        let blkio = b"8:0 Read 4096\n8:0 Write 512\n8:0 Sync 512\n8:0 Total 4608\n9:0 Read 1\nTotal 4609\n";
        assert_eq!(io_service_bytes(blkio), Some((4097, 512)));
        assert_eq!(memory_without_cache(b"anon 1000\nfile 5000\nshmem 24\n"), Some(1024));
        let one =
            b"cache 9\nrss 1\nshmem 1\ntotal_cache 9000\ntotal_rss 1000\ntotal_rss_huge 5\ntotal_shmem 24\n";
        assert_eq!(memory_without_cache(one), Some(1024));
        assert_eq!(oom_kills(b"low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(oom_kills(b"oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), Some(1));
        assert_eq!(number(b"4711\n"), Some(4711));
    }

    #[test]
    fn what_is_missing_or_nonsense_is_no_number() {
        for file in [&b""[..], b"\xff\xfe\n", b"user_usec\n", b"user_usec x\nsystem_usec -1\n", b"max\n"] {
            assert_eq!((cpu_stat(file), memory_without_cache(file), oom_kills(file)), (None, None, None));
            assert_eq!(number(file), None);
        }
        assert_eq!(io_stat(b""), None, "no controller counted");
        assert_eq!(
            cpu_stat(b"\xff 1\nuser_usec 5\nsystem_usec 6\n"),
            Some((5, 6)),
            "one bad line hides no other"
        );
        assert_eq!(io_stat(b"8:0 rbytes=18446744073709551615\n8:1 rbytes=5\n"), Some((u64::MAX, 0)));
    }
}
