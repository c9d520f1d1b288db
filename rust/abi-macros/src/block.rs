//! What the impl block says: hooks, constructor, state.

use proc_macro2::{Span, TokenStream as Tokens, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, FnArg, Ident, ImplItem, ImplItemFn, ItemImpl, Receiver, ReceiverKind, Result,
    Safety, Signature, Type,
};

use crate::attributes::{self, Defaults, Filter};
use crate::hooks;

/// The content of the block, read once.
pub struct Block {
    pub name: Ident,
    pub hooks: Vec<HookMethod>,
    pub constructor: Option<Constructor>,
    pub keeps_state: bool,
    /// When these two methods are there at all.
    pub state_cfg: Vec<Attribute>,
    /// True if it shows Python's garbage collector what it holds.
    pub is_traversed: bool,
}

pub struct HookMethod {
    pub name: Ident,
    pub variant: Ident,
    pub takes_ctx: bool,
    pub filters: Vec<Filter>,
    /// When the method is there at all.
    pub cfg: Vec<Attribute>,
}

pub struct Constructor {
    pub arguments: Vec<(Ident, Type)>,
    pub defaults: Defaults,
}

/// Read the block, and take our attributes off it.
pub fn read(item: &mut ItemImpl) -> Result<Block> {
    if let Some((path, _)) = &item.trait_ {
        return Err(Error::new(
            path.span(),
            "#[callback] goes over an impl block of the struct itself, not over one of a trait",
        ));
    }
    if !item.generics.params.is_empty() {
        return Err(Error::new(
            item.generics.span(),
            "a callback has one table, so that its type has no parameters; wrap a concrete one",
        ));
    }
    let name = match &*item.self_ty {
        Type::Path(path) => path.path.get_ident().cloned(),
        _ => None,
    };
    let name = name.ok_or_else(|| {
        Error::new(
            item.self_ty.span(),
            "#[callback] goes over an impl block of a struct that is named here without a path",
        )
    })?;
    let mut block = Block {
        name,
        hooks: Vec::new(),
        constructor: None,
        keeps_state: false,
        state_cfg: Vec::new(),
        is_traversed: false,
    };
    let mut state = State::default();
    let (mut traverse, mut clear) = (None, None);
    for member in &mut item.items {
        let ImplItem::Fn(method) = member else {
            continue;
        };
        let filters = attributes::take_filters(method)?;
        let defaults = attributes::take_defaults(method)?;
        let called = method.sig.ident.unraw().to_string();
        let is_new = called == "new" && method.sig.receiver().is_none();
        if let Some(defaults) = defaults.as_ref().filter(|_| !is_new) {
            return Err(Error::new(
                defaults.span,
                "#[defaults] goes over the constructor `new`",
            ));
        }
        if called.starts_with("on_") {
            let hook = read_hook(method, filters)?;
            block.hooks.push(hook);
            continue;
        }
        if let Some(filter) = filters.first() {
            return Err(Error::new(
                filter.span,
                "filters go over methods that are named like a breakpoint",
            ));
        }
        match called.as_str() {
            "new" if is_new => {
                block.constructor = Some(read_constructor(method, defaults.unwrap_or_default())?);
            }
            "save" | "load" => state.note(method, &called)?,
            "traverse" if takes_visit(method) => traverse = Some(method.sig.ident.span()),
            "clear" if takes(method, true) => clear = Some(()),
            _ => {}
        }
    }
    if let (Some(span), None) = (traverse, clear) {
        let message = "what the garbage collector is shown it must be able to cut: add `fn clear(&mut self)`, \
                       which lets go of it";
        return Err(Error::new(span, message));
    }
    block.is_traversed = traverse.is_some();
    (block.keeps_state, block.state_cfg) = state.finish()?;
    Ok(block)
}

/// The kinds of `save` and `load`, as they were read.
#[derive(Default)]
struct State {
    save: Option<Span>,
    load: Option<Span>,
    cfg: Vec<Attribute>,
    gives: (bool, bool),
    takes: (bool, bool),
}

impl State {
    fn note(&mut self, method: &ImplItemFn, called: &str) -> Result<()> {
        let (signature, span) = (&method.sig, method.sig.ident.span());
        if called == "save" && signature.inputs.len() == 1 && takes(method, false) {
            self.save = Some(span);
            self.cfg = cfg_of(method);
            let output = &signature.output;
            self.gives = (speaks_of(output, "Vec"), speaks_of(output, "String"));
            return Ok(());
        }
        if called == "load" && signature.inputs.len() == 2 && takes(method, true) {
            self.load = Some(span);
            let input = signature.inputs.last();
            self.takes = (speaks_of(input, "u8"), speaks_of(input, "str"));
            return Ok(());
        }
        let message = "`save` and `load` are the state for checkpoints: `fn save(&self)` and \
                       `fn load(&mut self, state: &[u8])`; a method for something else needs another \
                       name here, or an impl block of its own";
        Err(Error::new(span, message))
    }

    /// Give whether there is a state, and the attributes that say when.
    fn finish(self) -> Result<(bool, Vec<Attribute>)> {
        let (span, message) = match (self.save, self.load) {
            (None, None) => return Ok((false, Vec::new())),
            (Some(_), Some(span)) => {
                let (bytes, text) = self.gives;
                if !(bytes && self.takes == (false, true) || text && self.takes == (true, false)) {
                    return Ok((true, self.cfg));
                }
                let message = "`load` takes what `save` gives: `&[u8]` where that is `Vec<u8>`, and `&str` \
                               where it is a `String` of JSON";
                (span, message)
            }
            (Some(span), None) => {
                let message = "a state that is saved must be loaded: add `fn load(&mut self, state: &[u8])` \
                               (`&str` where `save` gives a `String`)";
                (span, message)
            }
            (None, Some(span)) => {
                let message = "a state that is loaded must be saved: add `fn save(&self) -> Vec<u8>` \
                               (`String` where `load` takes `&str`)";
                (span, message)
            }
        };
        Err(Error::new(span, message))
    }
}

/// True if a type is written with that name in it, and not as `Saved`, which is either form.
fn speaks_of(tokens: impl ToTokens, name: &str) -> bool {
    fn any(tokens: Tokens, name: &str) -> bool {
        tokens.into_iter().any(|token| match token {
            TokenTree::Ident(ident) => ident == name,
            TokenTree::Group(group) => any(group.stream(), name),
            _ => false,
        })
    }
    any(tokens.to_token_stream(), name)
}

/// True if a method takes `&self`, or where it may change it `&mut self`; and can be called as it is.
fn takes(method: &ImplItemFn, may_change: bool) -> bool {
    let signature = &method.sig;
    let plain = |receiver: &Receiver| match &receiver.kind {
        ReceiverKind::Reference(_, _, changes) => may_change || changes.is_none(),
        // `self: &mut Self` says the same.
        ReceiverKind::Typed(_, kind) => match &**kind {
            Type::Reference(to) => {
                matches!(&*to.elem, Type::Path(path) if path.path.is_ident("Self"))
                    && (may_change || to.mutability.is_none())
            }
            _ => false,
        },
        _ => false,
    };
    signature.receiver().is_some_and(plain) && is_plain(signature)
}

fn is_plain(signature: &Signature) -> bool {
    signature.generics.params.is_empty()
        && signature.asyncness.is_none()
        && matches!(signature.safety, Safety::Default)
        && signature.variadic.is_none()
}

fn cfg_of(method: &ImplItemFn) -> Vec<Attribute> {
    let attributes = method.attrs.iter();
    attributes
        .filter(|attribute| attribute.path().is_ident("cfg"))
        .cloned()
        .collect()
}

/// `fn traverse(&self, visit: PyVisit<'_>)`, and no other method of that name.
fn takes_visit(method: &ImplItemFn) -> bool {
    let Some(FnArg::Typed(argument)) = method.sig.inputs.last() else {
        return false;
    };
    let Type::Path(path) = &*argument.ty else {
        return false;
    };
    let last = path.path.segments.last();
    last.is_some_and(|segment| segment.ident == "PyVisit")
}

fn read_hook(method: &ImplItemFn, filters: Vec<Filter>) -> Result<HookMethod> {
    let signature = &method.sig;
    let name = signature.ident.clone();
    let variant = hooks::variant(&name.unraw().to_string())
        .map_err(|message| Error::new(name.span(), message))?;
    if !takes(method, true) || signature.inputs.len() > 2 {
        let message = format!(
            "a hook is `fn {name}(&mut self, ctx: &mut Ctx<'_>)`, and gives nothing or a `Result`"
        );
        return Err(Error::new(signature.span(), message));
    }
    Ok(HookMethod {
        variant: Ident::new(&variant, name.span()),
        name,
        takes_ctx: signature.inputs.len() == 2,
        filters,
        cfg: cfg_of(method),
    })
}

fn read_constructor(method: &ImplItemFn, defaults: Defaults) -> Result<Constructor> {
    let mut arguments = Vec::new();
    for input in &method.sig.inputs {
        let FnArg::Typed(argument) = input else {
            continue;
        };
        let syn::Pat::Ident(pattern) = &*argument.pat else {
            let message = "an argument of `new` has a name, which is its name in Python";
            return Err(Error::new(argument.pat.span(), message));
        };
        arguments.push((pattern.ident.clone(), (*argument.ty).clone()));
    }
    let known = |name: &Ident| arguments.iter().any(|(argument, _)| argument == name);
    if let Some((name, _)) = defaults.values.iter().find(|(name, _)| !known(name)) {
        let message = format!("`new` has no argument `{name}`");
        return Err(Error::new(name.span(), message));
    }
    let mut given = arguments
        .iter()
        .map(|(name, _)| (name, defaults.value(name).is_some()))
        .skip_while(|(_, has_default)| !has_default);
    if let Some((name, _)) = given.find(|(_, has_default)| !has_default) {
        let message = format!("`{name}` needs a default too: an argument before it has one");
        return Err(Error::new(name.span(), message));
    }
    Ok(Constructor {
        arguments,
        defaults,
    })
}
