//! `#[needs(...)]`: what a test must find on the host, said at the test. Use it as `harness::needs`.
//!
//! It asks `harness::need` before the first line of the test, so that each skip is counted, and is a failure where
//! everything must work. Only tests of this repository may call it; it is a crate of its own because the compiler wants
//! procedural macros apart.

use proc_macro::{Delimiter, Group, TokenStream, TokenTree};

/// Skips the test where the host lacks something.
///
/// A string names a program; a word names a function of `harness::need` without arguments; `self::word` names one of the
/// test's own file, which asks `harness::need::that`.
///
/// ```ignore
/// #[test]
/// #[needs(root, "strace")]
/// fn root_reads_the_proxy_once() { ... }
/// ```
#[proc_macro_attribute]
pub fn needs(wanted: TokenStream, test: TokenStream) -> TokenStream {
    let questions = match questions(wanted) {
        Ok(questions) => questions,
        Err(why) => return format!("compile_error!({why:?});").parse().expect("a macro call"),
    };
    let ask: TokenStream = format!("if !({questions}) {{ return; }}").parse().expect("an if statement");
    let mut tokens: Vec<TokenTree> = test.into_iter().collect();
    // The body of a function is the last thing of it.
    let Some(TokenTree::Group(body)) = tokens.pop().filter(is_body) else {
        return "compile_error!(\"#[needs] belongs to a function\");".parse().expect("a macro call");
    };
    let mut asked = Group::new(Delimiter::Brace, ask.into_iter().chain(body.stream()).collect());
    asked.set_span(body.span());
    tokens.push(asked.into());
    tokens.into_iter().collect()
}

fn is_body(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
}

fn is_comma(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',')
}

/// `root, "strace"` to the calls that ask for them, the first that fails ends the asking.
fn questions(wanted: TokenStream) -> Result<String, String> {
    let mut questions = Vec::new();
    for need in wanted.into_iter().collect::<Vec<_>>().split(is_comma) {
        questions.push(match need {
            [TokenTree::Ident(word)] => format!("::harness::need::{word}()"),
            [TokenTree::Ident(own), TokenTree::Punct(_), TokenTree::Punct(_), TokenTree::Ident(word)]
                if own.to_string() == "self" =>
            {
                format!("self::{word}()")
            }
            [TokenTree::Literal(program)] if program.to_string().starts_with('"') => {
                format!("::harness::need::tool({program})")
            }
            _ => {
                return Err("#[needs] takes words, self::word, and names of programs in quotes".to_owned());
            }
        });
    }
    Ok(questions.join(" && "))
}
