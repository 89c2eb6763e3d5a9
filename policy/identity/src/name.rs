//! What a distinguished name means, whatever its spelling.
//!
//! Certificates, map files, ban files and LSC files come from programs and people who write one name in many ways: a slash,
//! plus or comma in a value with a backslash or without, `Email`, `E` or `emailAddress`, `USERID` or `UID`, types in any
//! case or as numbers, bytes beyond ASCII as they are or as `\xHH`. This module is the one place where such names are
//! compared. The case of a value and its blanks count: no program changes those.

use crate::attribute_type;

/// The meaning of a name in the one-line form `/C=../O=../CN=..`: equal for all spellings of one name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Meaning(Vec<Component>);

/// One component: usually a single attribute. Several (`CN=a+UID=b`) are sorted, since their order says nothing.
type Component = Vec<Attribute>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Attribute {
    /// The short name of the type; empty for text that stands before the first component.
    kind: String,
    value: Vec<u8>,
}

impl Meaning {
    /// Reads a name. Any bytes have a meaning, though [`Meaning::is_name`] may say that nobody is called that.
    ///
    /// A slash begins a component where a known type and `=` follow it, and belongs to the value elsewhere or after
    /// a backslash; likewise a plus within a component.
    pub fn of(text: impl AsRef<[u8]>) -> Self {
        let mut components = split(&unescape(text.as_ref()));
        components.iter_mut().for_each(|component| component.sort());
        Self(components)
    }

    /// Whether a certificate can have this name: it consists of components, each with a value.
    pub fn is_name(&self) -> bool {
        let mut attributes = self.0.iter().flatten();
        !self.0.is_empty() && attributes.all(|a| !a.kind.is_empty() && !a.value.is_empty())
    }

    /// The value of the last component when that is one common name, as proxies add it.
    pub fn last_common_name(&self) -> Option<&[u8]> {
        match self.0.last()?.as_slice() {
            [one] if one.kind == "CN" => Some(&one.value),
            _ => None,
        }
    }

    /// Whether text can be a spelling of this name: a quick look that spares most of a long file the whole reading.
    pub fn may_be(&self, text: &[u8]) -> bool {
        // An escape may hide any byte, and the attributes of a component may stand in any order.
        let plain = !text.iter().any(|c| matches!(c, b'\\' | b'+'));
        match self.0.last().map(Vec::as_slice) {
            Some([last]) if plain => text.ends_with(&last.value),
            _ => true,
        }
    }
}

/// Whether two texts are spellings of one name.
pub fn same_name(one: impl AsRef<[u8]>, other: impl AsRef<[u8]>) -> bool {
    one.as_ref() == other.as_ref() || Meaning::of(one) == Meaning::of(other)
}

/// The text without escapes and with today's names of types, for patterns with wildcards: what cannot be told apart
/// without escapes is taken for the same, so this is for bans only. Attributes of one component stand as they were written
/// in the first form, and sorted in the second; both are set apart by slashes.
pub fn loose_forms(text: impl AsRef<[u8]>) -> [Vec<u8>; 2] {
    let plain: Vec<_> = unescape(text.as_ref()).into_iter().map(|c| Char { escaped: false, ..c }).collect();
    let written = split(&plain);
    let mut sorted = written.clone();
    sorted.iter_mut().for_each(|component| component.sort());
    [joined(&written), joined(&sorted)]
}

fn joined(components: &[Component]) -> Vec<u8> {
    let mut text = Vec::new();
    for attribute in components.iter().flatten() {
        if !attribute.kind.is_empty() {
            text.push(b'/');
            text.extend(attribute.kind.bytes());
            text.push(b'=');
        }
        text.extend(&attribute.value);
    }
    text
}

#[derive(Clone, Copy)]
struct Char {
    byte: u8,
    /// It came with a backslash, so it belongs to a value.
    escaped: bool,
}

/// Resolves `\xHH` and a backslash before one of the characters that are written with one; any other backslash is itself.
fn unescape(text: &[u8]) -> Vec<Char> {
    let mut rest = text;
    let mut chars = Vec::with_capacity(text.len());
    loop {
        rest = match rest {
            [] => return chars,
            [b'\\', b'x', high, low, tail @ ..] if hex(*high).is_some() && hex(*low).is_some() => {
                let byte = hex(*high).unwrap_or(0) << 4 | hex(*low).unwrap_or(0);
                chars.push(Char { byte, escaped: true });
                tail
            }
            [b'\\', byte, tail @ ..] if b"/+,\\\"#;<>= ".contains(byte) => {
                chars.push(Char { byte: *byte, escaped: true });
                tail
            }
            [byte, tail @ ..] => {
                chars.push(Char { byte: *byte, escaped: false });
                tail
            }
        };
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok())
}

fn split(chars: &[Char]) -> Vec<Component> {
    let mut components: Vec<Component> = Vec::new();
    let mut at = 0;
    while let Some(char) = chars.get(at) {
        let kind = match char {
            Char { byte: b'/', escaped: false } => type_at(&chars[at + 1..]),
            Char { byte: b'+', escaped: false } if !components.is_empty() => type_at(&chars[at + 1..]),
            _ => None,
        };
        if let Some((kind, length)) = kind {
            let attribute = Attribute { kind, value: Vec::new() };
            match components.last_mut() {
                Some(component) if char.byte == b'+' => component.push(attribute),
                _ => components.push(vec![attribute]),
            }
            at += 1 + length;
            continue;
        }
        if components.is_empty() {
            components.push(vec![Attribute { kind: String::new(), value: Vec::new() }]);
        }
        if let Some(attribute) = components.last_mut().and_then(|component| component.last_mut()) {
            attribute.value.push(char.byte);
        }
        at += 1;
    }
    components
}

/// The type of an attribute that begins here and the length of its word with the `=`.
fn type_at(chars: &[Char]) -> Option<(String, usize)> {
    /// No word for a type is longer.
    const LONGEST: usize = 64;
    let end = chars.iter().take(LONGEST).position(|c| c.byte == b'=' && !c.escaped)?;
    let plain = |c: &Char| !c.escaped && (c.byte.is_ascii_alphanumeric() || matches!(c.byte, b'.' | b'-'));
    let word = &chars[..end];
    if !word.iter().all(plain) {
        return None;
    }
    let word: String = word.iter().map(|c| char::from(c.byte)).collect();
    attribute_type::known(&word).map(|kind| (kind.into_owned(), end + 1))
}

#[cfg(test)]
#[path = "name_tests.rs"]
mod tests;
