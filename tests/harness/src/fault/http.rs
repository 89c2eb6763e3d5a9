//! As much HTTP/1.1 as it takes to pass messages on: head and body, by length or in chunks.

use std::io::{self, BufRead, Read};

/// Larger heads are nobody's.
const MAX_HEAD: u64 = 64 << 10;

/// A request or an answer, as it travelled.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// First line and fields, with the empty line.
    pub(super) head: Vec<u8>,
    /// The body with whatever frames it.
    pub(super) body: Vec<u8>,
}

impl Message {
    /// Reads one; nothing when the peer has closed the connection before the first byte. `bodiless` is an answer to HEAD.
    pub(super) fn read(from: &mut impl BufRead, bodiless: bool) -> io::Result<Option<Self>> {
        let mut head = Vec::new();
        loop {
            let mut line = Vec::new();
            from.take(MAX_HEAD).read_until(b'\n', &mut line)?;
            if line.is_empty() {
                return if head.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            head.extend_from_slice(&line);
            if line == b"\r\n" {
                break;
            }
        }
        let mut message = Self { head, body: Vec::new() };
        if !bodiless && !message.has_no_body() {
            message.body = message.read_body(from)?;
        }
        Ok(Some(message))
    }

    /// Words of the first line.
    pub(super) fn word(&self, index: usize) -> String {
        let text = String::from_utf8_lossy(&self.head);
        let first = text.lines().next().unwrap_or_default();
        first.split(' ').nth(index).unwrap_or_default().to_owned()
    }

    fn field(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.head);
        let fields = text.lines().skip(1).filter_map(|line| line.split_once(':'));
        let mut values =
            fields.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned());
        values.next()
    }

    fn is_answer(&self) -> bool {
        self.head.starts_with(b"HTTP/")
    }

    fn has_no_body(&self) -> bool {
        self.is_answer() && (matches!(self.word(1).as_str(), "204" | "304") || self.word(1).starts_with('1'))
    }

    fn read_body(&self, from: &mut impl BufRead) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if self.field("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            read_chunks(from, &mut body)?;
        } else if let Some(length) = self.field("content-length").and_then(|v| v.parse().ok()) {
            from.take(length).read_to_end(&mut body)?;
        } else if self.is_answer() {
            from.read_to_end(&mut body)?;
        }
        Ok(body)
    }

    /// Whether the connection ends with this message.
    pub(super) fn is_last(&self) -> bool {
        let unframed = self.is_answer()
            && !self.has_no_body()
            && self.field("content-length").is_none()
            && self.field("transfer-encoding").is_none();
        unframed || self.field("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
    }
}

fn read_chunks(from: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line)?;
        let text = String::from_utf8_lossy(&line);
        let size = text.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| io::Error::other("no size of a chunk"))?;
        body.extend_from_slice(&line);
        // The last chunk is followed by an empty line as well; nobody sends trailers here.
        from.take(size + 2).read_to_end(body)?;
        if size == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    #[test]
    fn messages_follow_each_other_by_length_and_in_chunks() {
        let mut text: &[u8] = b"POST /a HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcPUT /b HTTP/1.1\r\n\
            Transfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n\r\nGET /c HTTP/1.1\r\nConnection: close\r\n\r\n";
        let mut next = || Message::read(&mut text, false).expect("well formed");
        let (a, b, c) = (next().expect("a"), next().expect("b"), next().expect("c"));
        assert_eq!((a.word(1).as_str(), a.body.as_slice(), a.is_last()), ("/a", &b"abc"[..], false));
        assert_eq!((b.word(0).as_str(), b.body.as_slice()), ("PUT", &b"2\r\nxy\r\n0\r\n\r\n"[..]));
        assert_eq!((c.word(1).as_str(), c.body.len(), c.is_last()), ("/c", 0, true));
        assert!(next().is_none());
    }

    #[test]
    fn an_answer_without_a_length_ends_with_the_connection() {
        let mut text: &[u8] = b"HTTP/1.1 200 OK\r\n\r\nall of it";
        let answer = Message::read(&mut text, false).expect("well formed").expect("an answer");
        assert_eq!((answer.body.as_slice(), answer.is_last()), (&b"all of it"[..], true));
        let mut text: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
        let answer = Message::read(&mut text, false).expect("well formed").expect("an answer");
        assert!(answer.body.is_empty() && !answer.is_last());
    }
}
