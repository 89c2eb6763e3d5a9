//! Which payload is meant: its id, the beginning of its id, or `last`. An array is named in the same ways, and means all of
//! its elements.

use super::{Failure, RETRY, Result};
use pilot_api::Payload;
use pilot_client::{Client, Which};
use std::collections::BTreeSet;
use std::str::FromStr;
use uuid::Uuid;

/// How many payloads with one beginning are looked at.
const SEARCHED: u32 = 100;
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
    /// The ids that are meant: one, or those of all elements of an array, in the order of their indices.
    pub async fn ids(&self, client: &Client) -> Result<Vec<Uuid>> {
        let meant = match self {
            Self::Id(id) => Meant::Either(*id),
            Self::Last => newest(&list(client, Which { limit: 1, ..Which::default() }).await?)?,
            Self::Beginning(digits) => {
                let begins = Some(dashed(digits));
                among(self, &list(client, Which { begins, limit: SEARCHED, ..Which::default() }).await?)?
            }
        };
        match meant {
            Meant::One(id) => Ok(vec![id]),
            Meant::Array(id) => elements(client, id).await,
            Meant::Either(id) => {
                let all = elements(client, id).await?;
                Ok(if all.is_empty() { vec![id] } else { all })
            }
        }
    }
}

/// What a selector has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meant {
    One(Uuid),
    Array(Uuid),
    /// A whole id: the queue knows of what.
    Either(Uuid),
}

async fn list(client: &Client, which: Which) -> Result<Vec<Payload>> {
    Ok(client.patiently(RETRY, || client.listed(&which)).await?)
}

async fn elements(client: &Client, array: Uuid) -> Result<Vec<Uuid>> {
    let which = Which { array: Some(array), ..Which::default() };
    Ok(client.listed_all(RETRY, &which, |payload| payload.id).await?)
}

/// Hexadecimal digits with dashes where an id has them.
fn dashed(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() + 4);
    for (at, digit) in digits.chars().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

/// What was handed in last: a payload, or a whole array.
fn newest(payloads: &[Payload]) -> Result<Meant> {
    match payloads.last() {
        Some(payload) => Ok(payload.array.map_or(Meant::One(payload.id), Meant::Array)),
        None => Err(Failure::no("you have no payload; `pilot submit` hands one in".to_owned())),
    }
}

/// Finds the one payload or array whose id begins as the selector says, among payloads where one of both does.
fn among(selector: &Selector, payloads: &[Payload]) -> Result<Meant> {
    let Selector::Beginning(digits) = selector else {
        return Err(Failure::no(format!("{selector} is no beginning of an id")));
    };
    let begins = |id: &Uuid| id.simple().to_string().starts_with(digits);
    let arrays: BTreeSet<Uuid> = payloads.iter().filter_map(|p| p.array).filter(begins).collect();
    let ones = payloads.iter().map(|p| p.id).filter(begins);
    let found: Vec<Meant> = arrays.into_iter().map(Meant::Array).chain(ones.map(Meant::One)).collect();
    match found.as_slice() {
        [] => {
            Err(Failure::no(format!("no payload of yours begins with {selector}; `pilot jobs` lists them")))
        }
        [one] => Ok(*one),
        several => {
            let name = |meant: &Meant| match meant {
                Meant::One(id) | Meant::Either(id) => id.to_string(),
                Meant::Array(id) => format!("the array {id}"),
            };
            let arrays_first = several.iter().take_while(|m| matches!(m, Meant::Array(_)));
            let newest_first = several.iter().rev().take_while(|m| matches!(m, Meant::One(_)));
            let named: Vec<_> = arrays_first.chain(newest_first).take(NAMED).map(name).collect();
            let more = if several.len() > NAMED { ", …" } else { "" };
            let or_more = if payloads.len() >= SEARCHED as usize { " or more" } else { "" };
            Err(Failure::no(format!(
                "{selector} is the beginning of {}{or_more} payloads: {}{more}; write more of it",
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
        for text in ["01a221f8-a344", "01A221F8A"] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(among(&selector, &all).unwrap(), Meant::One(all[0].id), "{text}");
        }
        assert_eq!(newest(&all).unwrap(), Meant::One(all[1].id));
        let several = among(&"01a2".parse().unwrap(), &all).unwrap_err();
        assert!(several.text.contains("2 payloads") && several.text.contains(&all[0].id.to_string()));
        assert!(among(&"02".parse().unwrap(), &all).unwrap_err().text.contains("pilot jobs"));
        assert!(newest(&[]).unwrap_err().text.contains("pilot submit"));
        assert_eq!(dashed("01a221f8a34470"), "01a221f8-a344-70");
    }

    #[test]
    fn an_array_is_found_by_the_beginning_of_its_own_id() {
        let array: Uuid = "01a221f8-c344-7000-8000-00000000000a".parse().unwrap();
        let mut all =
            known(&["01a221f8-a344-7000-8000-000000000001", "01a221f8-a344-7000-8000-000000000002"]);
        all.iter_mut().for_each(|p| p.array = Some(array));
        assert_eq!(among(&"01a221f8-c".parse().unwrap(), &all).unwrap(), Meant::Array(array));
        assert_eq!(newest(&all).unwrap(), Meant::Array(array));
        let several = among(&"01a2".parse().unwrap(), &all).unwrap_err();
        assert!(several.text.contains(&format!("the array {array}")), "{}", several.text);
    }

    #[test]
    fn other_words_are_no_payloads() {
        for bad in ["", "x", "-", "-1", "latest", "01a221f8-a344-7000-8000-0000000000011"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }
}
