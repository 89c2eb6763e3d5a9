//! `#[needs(...)]`: what a test must find on the host, said at the test. Use it as `harness::needs`.
//!
//! It asks `harness::need` before the first line of the test, so that each skip is counted, and is a failure where
//! everything must work. Only tests of this repository may call it; it is a crate of its own because the compiler wants
//! procedural macros apart.

use proc_macro::{Delimiter, Group, TokenStream, TokenTree};

/// Skips the test where the host lacks something.
///
/// A string names a program; a word names a function of `harness::need` without arguments.
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

/// `root, "strace"` to the calls that ask for them, the first that fails ends the asking.
fn questions(wanted: TokenStream) -> Result<String, String> {
    let mut questions = Vec::new();
    for (index, token) in wanted.into_iter().enumerate() {
        match token {
            TokenTree::Punct(comma) if index % 2 == 1 && comma.as_char() == ',' => {}
            TokenTree::Ident(word) if index % 2 == 0 => questions.push(format!("::harness::need::{word}()")),
            TokenTree::Literal(program) if index % 2 == 0 && program.to_string().starts_with('"') => {
                questions.push(format!("::harness::need::tool({program})"));
            }
            other => {
                return Err(format!("#[needs] takes words and names of programs in quotes, not `{other}`"));
            }
        }
    }
    if questions.is_empty() {
        return Err("#[needs] without a need".to_owned());
    }
    Ok(questions.join(" && "))
}
