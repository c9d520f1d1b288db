//! Defaults of a constructor's arguments: as Rust takes them, and as Python shows them.

use proc_macro2::{Group, TokenStream as Tokens, TokenTree};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::{Expr, ExprLit, Ident, Lit, Type, UnOp};

use crate::block::Constructor;

/// A default, as an argument of that type takes it: a text is good for a `String`, a whole number for
/// a float, and both for an `Option` of these.
pub fn value(value: &Expr, kind: &Type, of: &Ident) -> Tokens {
    let tokens = without_self(value.to_token_stream(), of);
    let Some(literal) = literal(value) else {
        return tokens;
    };
    if let Some(inside) = inside_option(kind) {
        let inner = fitting(literal, &inside, tokens);
        return quote!(::core::option::Option::Some(#inner));
    }
    fitting(literal, kind, tokens)
}

fn fitting(literal: &Lit, kind: &Type, tokens: Tokens) -> Tokens {
    let is_float =
        matches!(kind, Type::Path(path) if path.path.is_ident("f64") || path.path.is_ident("f32"));
    match literal {
        Lit::Int(_) if is_float => quote!((#tokens) as #kind),
        Lit::Str(_) if !matches!(kind, Type::Reference(_)) => {
            quote!(<#kind as ::core::convert::From<&str>>::from(#tokens))
        }
        _ => tokens,
    }
}

/// A literal, signed or not.
fn literal(value: &Expr) -> Option<&Lit> {
    match value {
        Expr::Lit(ExprLit { lit, .. }) => Some(lit),
        Expr::Unary(unary) if matches!(unary.op, UnOp::Neg(_)) => literal(&unary.expr),
        Expr::Group(group) => literal(&group.expr),
        Expr::Paren(paren) => literal(&paren.expr),
        _ => None,
    }
}

fn inside_option(kind: &Type) -> Option<Type> {
    let Type::Path(path) = kind else { return None };
    let last = path
        .path
        .segments
        .last()
        .filter(|last| last.ident == "Option")?;
    let syn::PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return None;
    };
    match arguments.args.first()? {
        syn::GenericArgument::Type(inside) => Some(inside.clone()),
        _ => None,
    }
}

/// `Self` is the struct, and not the class that the default is written into.
fn without_self(tokens: Tokens, of: &Ident) -> Tokens {
    let one = |token| match token {
        TokenTree::Ident(ident) if ident == "Self" => TokenTree::Ident(of.clone()),
        TokenTree::Group(group) => {
            let inside = without_self(group.stream(), of);
            TokenTree::Group(Group::new(group.delimiter(), inside))
        }
        other => other,
    };
    tokens.into_iter().map(one).collect()
}

/// The signature as Python's `help` shows it.
pub fn signature(constructor: &Constructor) -> String {
    let argument = |(name, _): &(Ident, _)| {
        let shown = name.unraw();
        match constructor.defaults.value(name) {
            Some(value) => format!("{shown}={}", as_python(value)),
            None => shown.to_string(),
        }
    };
    let arguments: Vec<String> = constructor.arguments.iter().map(argument).collect();
    format!("({})", arguments.join(", "))
}

fn as_python(value: &Expr) -> String {
    match value {
        Expr::Lit(ExprLit { lit, .. }) => match lit {
            Lit::Bool(value) if value.value => "True".into(),
            Lit::Bool(_) => "False".into(),
            Lit::Int(number) => number.base10_digits().into(),
            Lit::Float(number) => number.base10_digits().into(),
            Lit::Str(text) => quoted(&text.value()),
            _ => "...".into(),
        },
        Expr::Unary(unary) if literal(value).is_some() => format!("-{}", as_python(&unary.expr)),
        Expr::Group(group) => as_python(&group.expr),
        Expr::Path(path) if path.path.is_ident("None") => "None".into(),
        _ => "...".into(),
    }
}

/// A text as Python writes it.
fn quoted(text: &str) -> String {
    let letters = text.chars().map(|letter| match letter {
        '\\' | '"' => format!("\\{letter}"),
        ' '..='~' => letter.to_string(),
        _ => format!("\\U{:08x}", u32::from(letter)),
    });
    format!("\"{}\"", letters.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    #[test]
    fn texts_are_written_as_python_reads_them() {
        assert_eq!(quoted("stop"), "\"stop\"");
        assert_eq!(quoted("a\\\"\n"), "\"a\\\\\\\"\\U0000000a\"");
        assert_eq!(as_python(&parse_quote!(-1.5)), "-1.5");
        assert_eq!(as_python(&parse_quote!(vec![1])), "...");
    }

    #[test]
    fn a_default_fits_the_type_of_its_argument() {
        let of: Ident = parse_quote!(Spike);
        let told = |default: Expr, kind: Type| value(&default, &kind, &of).to_string();
        assert_eq!(told(parse_quote!(10), parse_quote!(f64)), "(10) as f64");
        assert_eq!(told(parse_quote!(10), parse_quote!(u8)), "10");
        assert_eq!(told(parse_quote!(Self::D), parse_quote!(u8)), "Spike :: D");
        assert!(told(parse_quote!("a"), parse_quote!(Option<String>)).contains("Some"));
        assert_eq!(
            told(parse_quote!(None), parse_quote!(Option<String>)),
            "None"
        );
    }
}
