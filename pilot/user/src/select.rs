//! Which payload is meant: its id, the beginning of its id, or `last`.

use super::{Failure, RETRY, Result};
use pilot_api::Payload;
use pilot_client::Client;
use std::str::FromStr;
use uuid::Uuid;

/// How many of the newest payloads a beginning is searched in.
const SEARCHED: u32 = 100_000;
/// How many candidates are named when a beginning has several.
const NAMED: usize = 5;

/// What a user may write for a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The whole id.
    Id(Uuid),
    /// The beginning of an id: hexadecimal digits, without dashes, lower case.
    Beginning(String),
    /// What was submitted last.
    Last,
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "last" {
            return Ok(Self::Last);
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        let digits: String = text.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
        let good = (1..32).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        match good && !text.starts_with('-') {
            true => Ok(Self::Beginning(digits)),
            false => {
                Err("write a payload's id, its beginning, or `last`; `pilot jobs` lists them".to_owned())
            }
        }
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Beginning(digits) => f.write_str(digits),
            Self::Last => f.write_str("last"),
        }
    }
}

impl Selector {
    /// The ids that are meant: one, or those of all elements of an array.
    pub async fn ids(&self, client: &Client) -> Result<Vec<Uuid>> {
        match self {
            Self::Id(id) => Ok(vec![*id]),
            Self::Last => among(self, &client.patiently(RETRY, || client.payloads(1)).await?),
            Self::Beginning(_) => among(self, &client.patiently(RETRY, || client.payloads(SEARCHED)).await?),
        }
    }

    /// The one id that is meant.
    pub async fn id(&self, client: &Client) -> Result<Uuid> {
        match self.ids(client).await?.as_slice() {
            [id] => Ok(*id),
            several => {
                Err(Failure::no(format!("{self} is an array of {}; name one of its elements", several.len())))
            }
        }
    }
}

/// Finds what is meant among payloads, the newest of which comes last.
fn among(selector: &Selector, payloads: &[Payload]) -> Result<Vec<Uuid>> {
    let found: Vec<Uuid> = match selector {
        Selector::Id(id) => vec![*id],
        Selector::Last => payloads.last().map(|p| p.id).into_iter().collect(),
        Selector::Beginning(digits) => {
            let begins = |p: &&Payload| p.id.simple().to_string().starts_with(digits);
            payloads.iter().filter(begins).map(|p| p.id).collect()
        }
    };
    match found.as_slice() {
        [] if *selector == Selector::Last => {
            Err(Failure::no("you have no payload; `pilot submit` hands one in".to_owned()))
        }
        [] => {
            Err(Failure::no(format!("no payload of yours begins with {selector}; `pilot jobs` lists them")))
        }
        [_] => Ok(found),
        several => {
            let named: Vec<_> = several.iter().rev().take(NAMED).map(Uuid::to_string).collect();
            let more = if several.len() > NAMED { ", …" } else { "" };
            Err(Failure::no(format!(
                "{selector} is the beginning of {} payloads: {}{more}; write more of it",
                several.len(),
                named.join(", ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::tests::payload;
    use pilot_api::PayloadState;

    fn known(ids: &[&str]) -> Vec<Payload> {
        let of = |id: &&str| Payload { id: id.parse().unwrap(), ..payload(PayloadState::Waiting, None) };
        ids.iter().map(of).collect()
    }

    #[test]
    fn beginnings_are_taken_with_and_without_dashes() {
        let all = known(&["01a221f8-a344-7000-8000-000000000001", "01a221f8-b344-7000-8000-000000000002"]);
        for text in ["01a221f8-a344", "01A221F8A", "01a221f8-a344-7000-8000-000000000001"] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(among(&selector, &all).unwrap(), [all[0].id], "{text}");
        }
        assert_eq!(among(&Selector::Last, &all).unwrap(), [all[1].id]);
        let several = among(&"01a2".parse().unwrap(), &all).unwrap_err();
        assert!(several.text.contains("2 payloads") && several.text.contains(&all[0].id.to_string()));
        assert!(among(&"02".parse().unwrap(), &all).unwrap_err().text.contains("pilot jobs"));
        assert!(among(&Selector::Last, &[]).unwrap_err().text.contains("pilot submit"));
    }

    #[test]
    fn other_words_are_no_payloads() {
        for bad in ["", "x", "-", "-1", "latest", "01a221f8-a344-7000-8000-0000000000011"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }
}
