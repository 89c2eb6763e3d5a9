//! XML as records need it: elements with attributes and text, in the order in which they are added.

use quick_xml::escape::escape;

/// Elements under way.
#[derive(Debug, Default)]
pub(super) struct Xml(String);

impl Xml {
    /// An element with a text.
    pub(super) fn leaf(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) {
        self.start(name, attributes);
        self.0.push_str(&escape(text));
        self.end(name);
    }

    /// The same, when there is a text.
    pub(super) fn some(&mut self, name: &str, attributes: &[(&str, &str)], text: Option<impl AsRef<str>>) {
        if let Some(text) = text.as_ref().map(AsRef::as_ref).filter(|text| !text.is_empty()) {
            self.leaf(name, attributes, text);
        }
    }

    /// An element with attributes only.
    pub(super) fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.start(name, attributes);
        self.0.truncate(self.0.len() - 1);
        self.0.push_str("/>");
    }

    /// Begins an element.
    pub(super) fn start(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.0.push_str(&format!("<{name}"));
        for (key, value) in attributes {
            self.0.push_str(&format!(" {key}=\"{}\"", escape(*value)));
        }
        self.0.push('>');
    }

    /// Ends it.
    pub(super) fn end(&mut self, name: &str) {
        self.0.push_str(&format!("</{name}>"));
    }

    /// The elements, behind the declaration.
    pub(super) fn document(self) -> String {
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n", self.0)
    }
}

/// Seconds with a fraction, as `xsd:duration`: `PT3600.75S`.
pub(super) fn duration_us(us: u64) -> String {
    match us % 1_000_000 {
        0 => format!("PT{}S", us / 1_000_000),
        fraction => format!("PT{}.{}S", us / 1_000_000, format!("{fraction:06}").trim_end_matches('0')),
    }
}
