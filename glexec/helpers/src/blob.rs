//! The blob in `GLEXEC_ENV`: base64 of zlib of each `NAME=VALUE` in base64 with a blank behind it.
//!
//! This is the format of `glexec_wrapenv.pl` of gLExec 0.9 (Perl's `MIME::Base64` and `Compress::Zlib`), read and
//! written alike. Values may hold anything but NUL, line breaks included.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::{ZlibDecoder, ZlibEncoder};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Linux takes no single variable longer than this, name and NUL included (`MAX_ARG_STRLEN`, execve(2)).
pub const LONGEST_VARIABLE: usize = 128 * 1024;

/// Variables: name and value.
pub type Variables = Vec<(OsString, OsString)>;

/// Packs variables into one line without a line break.
///
/// # Errors
/// None in practice: the input is in memory.
pub fn wrap<'a>(variables: impl Iterator<Item = (&'a OsStr, &'a OsStr)>) -> std::io::Result<String> {
    let mut text = String::new();
    for (name, value) in variables {
        let pair = [name.as_bytes(), b"=", value.as_bytes()].concat();
        STANDARD.encode_string(pair, &mut text);
        text.push(' ');
    }
    let mut packed = Vec::new();
    ZlibEncoder::new(text.as_bytes(), Compression::default()).read_to_end(&mut packed)?;
    Ok(STANDARD.encode(packed))
}

/// Unpacks a blob. White space in it is passed over, since shells and files add some.
///
/// # Errors
/// One line that says which layer is damaged.
pub fn unwrap(blob: &[u8]) -> Result<Variables, String> {
    let blob: Vec<u8> = blob.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let packed = STANDARD.decode(blob).map_err(|e| format!("is not base64: {e}"))?;
    let mut text = String::new();
    ZlibDecoder::new(packed.as_slice())
        .read_to_string(&mut text)
        .map_err(|e| format!("does not hold compressed text: {e}"))?;
    text.split_ascii_whitespace().map(variable).collect()
}

fn variable(item: &str) -> Result<(OsString, OsString), String> {
    let mut pair = STANDARD.decode(item).map_err(|e| format!("holds a variable that is not base64: {e}"))?;
    // The first '=' ends the name; values may hold more of them.
    let end = pair.iter().position(|b| *b == b'=').filter(|end| *end > 0);
    let end = end.ok_or("holds a variable without a name")?;
    let value = pair.split_off(end + 1);
    pair.pop();
    if pair.contains(&0) || value.contains(&0) {
        return Err("holds a variable with a NUL".into());
    }
    Ok((OsString::from_vec(pair), OsString::from_vec(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(n, v)| (n.into(), v.into())).collect()
    }

    #[test]
    fn what_is_wrapped_comes_back() {
        let mut all = variables(&[("A", "1"), ("EMPTY", ""), ("LINES", "a\nb = c=d\n"), ("UML", "\u{fc}")]);
        all.push(("BYTES".into(), OsString::from_vec((1..=255).collect())));
        let blob = wrap(all.iter().map(|(n, v)| (n.as_os_str(), v.as_os_str()))).unwrap();
        assert!(!blob.contains(char::is_whitespace));
        assert_eq!(unwrap(blob.as_bytes()), Ok(all));
    }

    #[test]
    fn a_blob_of_the_perl_script_is_understood() {
        // perl -MCompress::Zlib -MMIME::Base64 -e 'print encode_base64(compress(encode_base64("A=1","")." "),"")'
        assert_eq!(unwrap(b"eJwLDDGoUAAABIoBbg=="), Ok(variables(&[("A", "1")])));
        assert_eq!(unwrap(b"eJwLDDGo\nUAAABIoBbg==\n"), Ok(variables(&[("A", "1")])));
    }

    #[test]
    fn damage_is_named() {
        assert!(unwrap(b"?").unwrap_err().contains("not base64"));
        assert!(unwrap(b"AAAA").unwrap_err().contains("compressed"));
        let packed = |text: &str| {
            let mut packed = Vec::new();
            ZlibEncoder::new(text.as_bytes(), Compression::default()).read_to_end(&mut packed).unwrap();
            STANDARD.encode(packed)
        };
        assert!(unwrap(packed("% ").as_bytes()).unwrap_err().contains("not base64"));
        for nameless in ["no equals sign", "=x"] {
            let blob = packed(&STANDARD.encode(nameless));
            assert!(unwrap(blob.as_bytes()).unwrap_err().contains("without a name"));
        }
        assert!(unwrap(packed(&STANDARD.encode("A=\0")).as_bytes()).unwrap_err().contains("NUL"));
    }
}
