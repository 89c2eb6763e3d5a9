//! A small XML tree for messages of a peer that may be hostile.
//!
//! Limits come first: 1 MiB, 32 levels, 5000 elements, 64 attributes to an element. A document type, an entity
//! of its own, a processing instruction or a control character ends the parsing. Names are resolved to namespace
//! URIs, so that prefixes do not matter.
//!
//! The events come from `quick-xml`. A ready-made tree would be less code, but none bounds what it builds: `roxmltree`
//! 0.21 compares each attribute with all before it, and a tag of a megabyte keeps it busy for minutes (measured by the
//! test below).

use super::Malformed;
use quick_xml::NsReader;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::name::{Namespace, QName, ResolveResult};

/// Largest message that is read, in bytes.
pub const MAX_MESSAGE: usize = 1024 * 1024;
const MAX_DEPTH: usize = 32;
const MAX_ELEMENTS: usize = 5000;
const MAX_ATTRIBUTES: usize = 64;
const MAX_TAG: usize = 16 * 1024;
const MAX_NAMESPACE: usize = 256;

/// An element with everything below it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    /// Namespace URI, empty when there is none.
    pub namespace: String,
    /// Local name.
    pub name: String,
    /// Attributes without a namespace.
    pub attributes: Vec<(String, String)>,
    /// `xsi:type` as namespace URI and local name; the URI is `None` when its prefix is not declared.
    pub xsi_type: Option<(Option<String>, String)>,
    /// Elements below, in order.
    pub children: Vec<Element>,
    /// Character data directly in this element, references resolved.
    pub text: String,
}

impl Element {
    /// Whether this is the element of that namespace and name.
    pub fn is(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    /// The children of that name, in order.
    pub fn all<'a, 'n>(
        &'a self,
        namespace: &'n str,
        name: &'n str,
    ) -> impl Iterator<Item = &'a Element> + use<'a, 'n> {
        self.children.iter().filter(move |c| c.is(namespace, name))
    }

    /// The child of that name, if there is one; several are an error.
    pub fn one(&self, namespace: &str, name: &str) -> Result<Option<&Element>, Malformed> {
        let mut found = self.all(namespace, name);
        let first = found.next();
        match found.next() {
            None => Ok(first),
            Some(_) => Err(Malformed::new(format!("{} holds several {name} elements", self.name))),
        }
    }

    /// The child of that name; none and several are errors.
    pub fn need(&self, namespace: &str, name: &str) -> Result<&Element, Malformed> {
        self.one(namespace, name)?
            .ok_or_else(|| Malformed::new(format!("{} has no {name} element (in {namespace})", self.name)))
    }

    /// The value of an attribute without namespace.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Parses a whole document and returns its root.
pub fn parse(bytes: &[u8]) -> Result<Element, Malformed> {
    if bytes.len() > MAX_MESSAGE {
        return Err(Malformed::new(format!("XML of {} bytes, {MAX_MESSAGE} are allowed", bytes.len())));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed::new("XML is not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = NsReader::from_str(text);
    reader.config_mut().check_end_names = true;
    let mut builder = Builder::default();
    loop {
        let event =
            reader.read_event().map_err(|e| Malformed::new(format!("XML is not well formed: {e}")))?;
        match event {
            Event::Start(tag) => builder.open(element(&reader, &tag)?)?,
            Event::Empty(tag) => {
                builder.open(element(&reader, &tag)?)?;
                builder.close()?;
            }
            Event::End(_) => builder.close()?,
            Event::Text(data) => builder.text(&data.decode().map_err(bad)?)?,
            Event::CData(data) => builder.text(&data.decode().map_err(bad)?)?,
            Event::GeneralRef(reference) => builder.text(&resolve(&reference)?.to_string())?,
            Event::Comment(_) | Event::Decl(_) => {}
            Event::DocType(_) => {
                return Err(Malformed::new("XML has a document type, which is not allowed here"));
            }
            Event::PI(_) => {
                return Err(Malformed::new("XML has a processing instruction, which SOAP forbids"));
            }
            Event::Eof => return builder.finish(),
        }
    }
}

#[derive(Default)]
struct Builder {
    open: Vec<Element>,
    root: Option<Element>,
    count: usize,
}

impl Builder {
    fn open(&mut self, element: Element) -> Result<(), Malformed> {
        self.count += 1;
        if self.count > MAX_ELEMENTS || self.open.len() >= MAX_DEPTH {
            return Err(Malformed::new(format!(
                "XML has more than {MAX_ELEMENTS} elements or {MAX_DEPTH} levels"
            )));
        }
        if self.root.is_some() {
            return Err(Malformed::new("XML has two roots"));
        }
        self.open.push(element);
        Ok(())
    }

    fn close(&mut self) -> Result<(), Malformed> {
        let done = self.open.pop().ok_or_else(|| Malformed::new("XML ends an element it did not start"))?;
        match self.open.last_mut() {
            Some(parent) => parent.children.push(done),
            None => self.root = Some(done),
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), Malformed> {
        if let Some(bad) = text.chars().find(|c| !is_xml_char(*c)) {
            return Err(Malformed::new(format!(
                "XML holds the forbidden character U+{:04X}",
                u32::from(bad)
            )));
        }
        match self.open.last_mut() {
            Some(element) => element.text.push_str(text),
            None if text.trim().is_empty() => {}
            None => return Err(Malformed::new("XML has text outside its root")),
        }
        Ok(())
    }

    fn finish(self) -> Result<Element, Malformed> {
        if let Some(open) = self.open.last() {
            return Err(Malformed::new(format!("XML ends inside {:?}", open.name)));
        }
        self.root.ok_or_else(|| Malformed::new("XML is empty"))
    }
}

fn bad(error: impl std::fmt::Display) -> Malformed {
    Malformed::new(format!("XML is not well formed: {error}"))
}

/// XML 1.0, production 2.
fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

fn resolve(reference: &BytesRef<'_>) -> Result<char, Malformed> {
    if let Some(c) = reference.resolve_char_ref().map_err(bad)? {
        return Ok(c);
    }
    let name = reference.decode().map_err(bad)?;
    match &*name {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        other => Err(Malformed::new(format!("XML uses the unknown entity {other:?}"))),
    }
}

fn element(reader: &NsReader<&[u8]>, tag: &BytesStart<'_>) -> Result<Element, Malformed> {
    if tag.len() > MAX_TAG {
        return Err(Malformed::new(format!("XML has a tag of more than {MAX_TAG} bytes")));
    }
    let (namespace, local) = reader.resolve_element(tag.name());
    let mut element =
        Element { namespace: uri(namespace)?, name: utf8(local.as_ref())?, ..Element::default() };
    for (count, attribute) in tag.attributes().enumerate() {
        let attribute = attribute.map_err(bad)?;
        if count >= MAX_ATTRIBUTES {
            return Err(Malformed::new(format!("XML has more than {MAX_ATTRIBUTES} attributes in one tag")));
        }
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        let value = attribute.decode_and_unescape_value(reader.decoder()).map_err(bad)?.into_owned();
        if value.chars().any(|c| !is_xml_char(c)) {
            return Err(Malformed::new("XML holds a forbidden character in an attribute"));
        }
        let (namespace, local) = reader.resolve_attribute(attribute.key);
        match uri(namespace)?.as_str() {
            "" => element.attributes.push((utf8(local.as_ref())?, value)),
            super::names::XSI if local.as_ref() == b"type" => {
                element.xsi_type = Some(type_name(reader, &value))
            }
            _ => {}
        }
    }
    Ok(element)
}

fn type_name(reader: &NsReader<&[u8]>, value: &str) -> (Option<String>, String) {
    let (namespace, local) = reader.resolve_element(QName(value.trim().as_bytes()));
    (uri(namespace).ok(), String::from_utf8_lossy(local.as_ref()).into_owned())
}

fn uri(resolved: ResolveResult<'_>) -> Result<String, Malformed> {
    match resolved {
        ResolveResult::Unbound => Ok(String::new()),
        ResolveResult::Bound(Namespace(uri)) if uri.len() <= MAX_NAMESPACE => utf8(uri),
        ResolveResult::Bound(_) => Err(Malformed::new("XML has an overlong namespace")),
        ResolveResult::Unknown(prefix) => Err(Malformed::new(format!(
            "XML uses the undeclared prefix {:?}",
            String::from_utf8_lossy(&prefix)
        ))),
    }
}

fn utf8(bytes: &[u8]) -> Result<String, Malformed> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed::new("XML is not UTF-8"))
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
