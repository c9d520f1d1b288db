//! What stands in the attributes: options, filters, defaults.

use proc_macro2::{Span, TokenStream as Tokens};
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, Expr, ExprLit, Ident, ImplItemFn, Lit, LitInt, LitStr, Meta, MetaNameValue,
    Result, Token,
};

/// The options in `#[callback(...)]`.
#[derive(Default)]
pub struct Options {
    pub weight: Option<Expr>,
    pub name: Option<String>,
    pub module: Option<String>,
    pub after: Vec<String>,
    pub before: Vec<String>,
    pub logs: Vec<String>,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut options = Self::default();
        let mut seen = Vec::new();
        for meta in Punctuated::<Meta, Token![,]>::parse_terminated(input)? {
            let key = meta
                .path()
                .get_ident()
                .map(ToString::to_string)
                .unwrap_or_default();
            if seen.contains(&key) {
                return Err(Error::new(meta.span(), format!("`{key}` is given twice")));
            }
            match (key.as_str(), &meta) {
                ("weight", Meta::NameValue(pair)) => options.weight = Some(pair.value.clone()),
                ("name", Meta::NameValue(pair)) => options.name = Some(text(&pair.value)?),
                ("module", Meta::NameValue(pair)) => options.module = Some(text(&pair.value)?),
                ("after", Meta::List(list)) => options.after = texts(list)?,
                ("before", Meta::List(list)) => options.before = texts(list)?,
                ("logs", Meta::List(list)) => options.logs = texts(list)?,
                _ => {
                    return Err(Error::new(
                        meta.span(),
                        "the options are weight = 0.0, name = \"...\", after(\"...\"), before(\"...\"), \
                         logs(\"...\"), module = \"...\"",
                    ));
                }
            }
            seen.push(key);
        }
        Ok(options)
    }
}

fn text(value: &Expr) -> Result<String> {
    match value {
        // As `macro_rules!` hands it on.
        Expr::Group(group) => text(&group.expr),
        Expr::Lit(ExprLit {
            lit: Lit::Str(text),
            ..
        }) if !text.value().is_empty() => Ok(text.value()),
        _ => Err(Error::new(value.span(), "this is a text in quotes")),
    }
}

fn texts(list: &syn::MetaList) -> Result<Vec<String>> {
    let texts = list.parse_args_with(Punctuated::<LitStr, Token![,]>::parse_terminated)?;
    if let Some(empty) = texts.iter().find(|text| text.value().is_empty()) {
        return Err(Error::new(empty.span(), "this is a name, and not empty"));
    }
    Ok(texts.iter().map(LitStr::value).collect())
}

/// One filter over a hook method.
pub struct Filter {
    pub span: Span,
    every: u64,
    first: u64,
    last: u64,
    once: bool,
}

impl Filter {
    /// It, as the ABI has it.
    pub fn tokens(&self, hook: &Ident) -> Tokens {
        let (every, first, last) = (self.every, self.first, self.last);
        let once = u32::from(self.once);
        quote! {
            ::lumbre_abi::layout::Filter {
                hook: ::lumbre_abi::Hook::#hook.number(),
                once: #once,
                every: #every,
                first_epoch: #first,
                last_epoch: #last,
            }
        }
    }
}

/// Take the filters off a method.
pub fn take_filters(method: &mut ImplItemFn) -> Result<Vec<Filter>> {
    let mut filters = Vec::new();
    for attribute in take(method, &["every", "once", "epochs"]) {
        let mut filter = Filter {
            span: attribute.span(),
            every: 1,
            first: 1,
            last: u64::MAX,
            once: false,
        };
        if is(&attribute, "once") {
            attribute.meta.require_path_only()?;
            filter.once = true;
        } else if is(&attribute, "every") {
            let number = attribute.parse_args::<LitInt>().map_err(|error| {
                let message = "#[every(n)] takes a whole number: #[every(100)]";
                Error::new(error.span(), message)
            })?;
            filter.every = number.base10_parse()?;
            if filter.every == 0 {
                let message = "every(0) would never run; every(1) runs each time";
                return Err(Error::new(number.span(), message));
            }
        } else {
            let ends =
                attribute.parse_args_with(Punctuated::<Expr, Token![,]>::parse_terminated)?;
            (filter.first, filter.last) = epochs(&attribute, &ends)?;
        }
        filters.push(filter);
    }
    let first = filters.iter().map(|filter| filter.first).max();
    let last = filters.iter().map(|filter| filter.last).min();
    if let (true, Some(filter)) = (first > last, filters.last()) {
        let message = "these filters on one hook never hold together";
        return Err(Error::new(filter.span, message));
    }
    Ok(filters)
}

fn epochs(attribute: &Attribute, ends: &Punctuated<Expr, Token![,]>) -> Result<(u64, u64)> {
    let wrong = || {
        let message = "#[epochs(first, last)] takes the first epoch, from 1, and the last one, included, or \
                       None: #[epochs(2, 10)], #[epochs(2, None)], #[epochs(2)]";
        Error::new(attribute.span(), message)
    };
    let number = |end: &Expr| match end {
        Expr::Lit(ExprLit {
            lit: Lit::Int(number),
            ..
        }) => number.base10_parse::<u64>().ok(),
        _ => None,
    };
    let is_none = |end: &Expr| matches!(end, Expr::Path(path) if path.path.is_ident("None"));
    let first = ends.first().and_then(number).ok_or_else(wrong)?;
    let last = match ends.iter().nth(1) {
        None => u64::MAX,
        Some(end) if is_none(end) => u64::MAX,
        Some(end) => number(end).ok_or_else(wrong)?,
    };
    if first == 0 || last < first || ends.len() > 2 {
        return Err(wrong());
    }
    Ok((first, last))
}

/// The defaults of the constructor's arguments.
pub struct Defaults {
    pub span: Span,
    pub values: Vec<(Ident, Expr)>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            span: Span::call_site(),
            values: Vec::new(),
        }
    }
}

impl Defaults {
    /// The default of an argument.
    pub fn value(&self, name: &Ident) -> Option<&Expr> {
        let mut values = self.values.iter();
        values
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    }
}

/// Take the defaults off a constructor.
pub fn take_defaults(method: &mut ImplItemFn) -> Result<Option<Defaults>> {
    let mut taken = take(method, &["defaults"]).into_iter();
    let Some(attribute) = taken.next() else {
        return Ok(None);
    };
    if let Some(second) = taken.next() {
        let message = "one #[defaults(...)] holds them all";
        return Err(Error::new(second.span(), message));
    }
    let pairs =
        attribute.parse_args_with(Punctuated::<MetaNameValue, Token![,]>::parse_terminated)?;
    let mut defaults = Defaults {
        span: attribute.span(),
        values: Vec::new(),
    };
    for pair in pairs {
        let name = pair.path.require_ident()?.clone();
        if defaults.value(&name).is_some() {
            return Err(Error::new(name.span(), format!("`{name}` is given twice")));
        }
        defaults.values.push((name, pair.value));
    }
    Ok(Some(defaults))
}

fn take(method: &mut ImplItemFn, names: &[&str]) -> Vec<Attribute> {
    let ours = |attribute: &Attribute| names.iter().any(|name| is(attribute, name));
    let (taken, left) = std::mem::take(&mut method.attrs)
        .into_iter()
        .partition(ours);
    method.attrs = left;
    taken
}

/// True if it is that attribute, with or without the crate's name before it.
fn is(attribute: &Attribute, name: &str) -> bool {
    let mut path = attribute.path().segments.iter().rev();
    path.next().is_some_and(|last| last.ident == name)
        && path.all(|segment| segment.ident == "lumbre_abi")
}
