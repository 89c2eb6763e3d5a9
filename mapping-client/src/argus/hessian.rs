//! Hessian 1.0, the part that Argus uses: null, booleans, integers, strings, lists, objects and back-references.
//!
//! Limits come first: 32 levels and 5000 values. A decoded document is a table of values whose lists and objects
//! hold indices, so that a back-reference costs nothing and cannot multiply what a peer sent.

/// Most levels of lists and objects.
const MAX_DEPTH: usize = 32;
/// Most values in a document.
const MAX_VALUES: usize = 5000;
/// Longest piece of a string that is written at once, in characters.
const CHUNK: usize = 0x7fff;

/// Something to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// No value.
    Null,
    /// A number.
    Integer(i32),
    /// A text.
    Text(String),
    /// A list without a type, as the C client of Argus writes it.
    List(Vec<Value>),
    /// An object: class and fields in order.
    Object(String, Vec<(String, Value)>),
}

impl Value {
    /// The bytes. Back-references are never written: the C client of Argus resolves them wrongly.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        bytes
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => out.push(b'N'),
            Value::Integer(number) => {
                out.push(b'I');
                out.extend(number.to_be_bytes());
            }
            Value::Text(text) => write_text(out, text),
            Value::List(items) => {
                out.extend(*b"Vl");
                out.extend(u32::try_from(items.len()).unwrap_or(u32::MAX).to_be_bytes());
                items.iter().for_each(|item| item.write(out));
                out.push(b'z');
            }
            Value::Object(class, fields) => {
                out.extend(*b"Mt");
                out.extend(u16::try_from(class.len()).unwrap_or(u16::MAX).to_be_bytes());
                out.extend(class.as_bytes());
                for (key, value) in fields {
                    write_text(out, key);
                    value.write(out);
                }
                out.push(b'z');
            }
        }
    }
}

/// Lengths count UTF-16 units, as Java does. All pieces but the last are marked `s`.
fn write_text(out: &mut Vec<u8>, text: &str) {
    let mut rest = text;
    loop {
        let (piece, length, left) = cut(rest);
        out.push(if left.is_empty() { b'S' } else { b's' });
        out.extend(length.to_be_bytes());
        out.extend(piece.as_bytes());
        if left.is_empty() {
            return;
        }
        rest = left;
    }
}

/// The longest beginning of a text that fits a piece, its length in UTF-16 units, and the rest.
fn cut(text: &str) -> (&str, u16, &str) {
    let mut units = 0;
    for (at, c) in text.char_indices() {
        if units + c.len_utf16() > CHUNK {
            return (&text[..at], u16::try_from(units).unwrap_or(u16::MAX), &text[at..]);
        }
        units += c.len_utf16();
    }
    (text, u16::try_from(units).unwrap_or(u16::MAX), "")
}

#[derive(Debug)]
enum Slot {
    /// Null, a boolean, or a list or object that is being read.
    Nothing,
    Integer(i32),
    Text(String),
    List(Vec<usize>),
    Object(String, Vec<(usize, usize)>),
}

/// What a peer sent.
#[derive(Debug)]
pub struct Document {
    slots: Vec<Slot>,
    root: usize,
}

/// A value in a document.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    document: &'a Document,
    at: usize,
}

impl Document {
    /// The outermost value.
    pub fn root(&self) -> Node<'_> {
        Node { document: self, at: self.root }
    }
}

impl<'a> Node<'a> {
    fn slot(self) -> &'a Slot {
        &self.document.slots[self.at]
    }

    fn node(self, at: usize) -> Node<'a> {
        Node { document: self.document, at }
    }

    /// The class of an object.
    pub fn class(self) -> Option<&'a str> {
        match self.slot() {
            Slot::Object(class, _) => Some(class),
            _ => None,
        }
    }

    /// A field of an object. Two fields of one name are none: they might contradict each other.
    pub fn field(self, name: &str) -> Option<Node<'a>> {
        let Slot::Object(_, fields) = self.slot() else {
            return None;
        };
        let mut found = fields.iter().filter(|(key, _)| self.node(*key).text() == Some(name));
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Some(self.node(*value)),
            _ => None,
        }
    }

    /// The items of a list.
    pub fn items(self) -> Option<Vec<Node<'a>>> {
        match self.slot() {
            Slot::List(items) => Some(items.iter().map(|at| self.node(*at)).collect()),
            _ => None,
        }
    }

    /// A text.
    pub fn text(self) -> Option<&'a str> {
        match self.slot() {
            Slot::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number.
    pub fn integer(self) -> Option<i32> {
        match self.slot() {
            Slot::Integer(number) => Some(*number),
            _ => None,
        }
    }
}

/// Reads a whole document; the error is one line.
pub fn decode(bytes: &[u8]) -> Result<Document, String> {
    let mut reader = Reader { rest: bytes, slots: Vec::new(), references: Vec::new() };
    let root = reader.value(0)?;
    if !reader.rest.is_empty() {
        return Err("Hessian: bytes left over".into());
    }
    Ok(Document { slots: reader.slots, root })
}

struct Reader<'a> {
    rest: &'a [u8],
    slots: Vec<Slot>,
    /// Lists and objects in the order in which they start: what `R` counts.
    references: Vec<usize>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("Hessian: ends in the middle")?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<usize, String> {
        let bytes = self.take(2)?;
        Ok(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    }

    fn u32(&mut self) -> Result<u32, String> {
        let b = self.take(4)?;
        Ok(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn add(&mut self, slot: Slot) -> Result<usize, String> {
        if self.slots.len() >= MAX_VALUES {
            return Err(format!("Hessian: more than {MAX_VALUES} values"));
        }
        self.slots.push(slot);
        Ok(self.slots.len() - 1)
    }

    fn value(&mut self, depth: usize) -> Result<usize, String> {
        if depth > MAX_DEPTH {
            return Err(format!("Hessian: more than {MAX_DEPTH} levels"));
        }
        match self.byte()? {
            b'N' | b'T' | b'F' => self.add(Slot::Nothing),
            b'I' => {
                let number = self.u32()?.cast_signed();
                self.add(Slot::Integer(number))
            }
            tag @ (b'S' | b's') => {
                let text = self.text(tag)?;
                self.add(Slot::Text(text))
            }
            b'V' => self.list(depth),
            b'M' => self.object(depth),
            b'R' => {
                let number = self.u32()?;
                let known = usize::try_from(number).ok().and_then(|n| self.references.get(n).copied());
                known.ok_or_else(|| "Hessian: reference to nothing".to_owned())
            }
            other => Err(format!("Hessian: a value of the type {other:#04x}, which Argus does not use")),
        }
    }

    /// A string whose first tag has been read; its pieces may continue.
    fn text(&mut self, mut tag: u8) -> Result<String, String> {
        let mut text = String::new();
        loop {
            let units = self.u16()?;
            text.push_str(self.characters(units)?);
            match tag {
                b'S' => return Ok(text),
                _ => tag = self.byte()?,
            }
            if !matches!(tag, b'S' | b's') {
                return Err("Hessian: a string is not continued".into());
            }
        }
    }

    /// So many UTF-16 units of UTF-8 text.
    fn characters(&mut self, units: usize) -> Result<&'a str, String> {
        let (mut left, mut end) = (units, 0);
        while left > 0 {
            let first = *self.rest.get(end).ok_or("Hessian: a string ends in the middle")?;
            let (bytes, cost) = match first {
                0x00..=0x7f => (1, 1),
                0xc0..=0xdf => (2, 1),
                0xe0..=0xef => (3, 1),
                _ => (4, 2),
            };
            end += bytes;
            left = left.checked_sub(cost).ok_or("Hessian: a string ends within a character")?;
        }
        std::str::from_utf8(self.take(end)?).map_err(|_| "Hessian: a string is not UTF-8".to_owned())
    }

    /// Skips the type of a list or object; returns it.
    fn class(&mut self) -> Result<String, String> {
        if self.rest.first() != Some(&b't') {
            return Ok(String::new());
        }
        self.byte()?;
        let units = self.u16()?;
        Ok(self.characters(units)?.to_owned())
    }

    fn list(&mut self, depth: usize) -> Result<usize, String> {
        let at = self.add(Slot::Nothing)?;
        self.references.push(at);
        self.class()?;
        if self.rest.first() == Some(&b'l') {
            self.byte()?;
            // The end mark counts: a length is only a hint.
            self.u32()?;
        }
        let mut items = Vec::new();
        while self.rest.first() != Some(&b'z') {
            items.push(self.value(depth + 1)?);
        }
        self.byte()?;
        self.slots[at] = Slot::List(items);
        Ok(at)
    }

    fn object(&mut self, depth: usize) -> Result<usize, String> {
        let at = self.add(Slot::Nothing)?;
        self.references.push(at);
        let class = self.class()?;
        let mut fields = Vec::new();
        while self.rest.first() != Some(&b'z') {
            let key = self.value(depth + 1)?;
            fields.push((key, self.value(depth + 1)?));
        }
        self.byte()?;
        self.slots[at] = Slot::Object(class, fields);
        Ok(at)
    }
}

#[cfg(test)]
#[path = "hessian_tests.rs"]
mod tests;
