//! The attribute `#[callback]` of `lumbre-abi`.

mod attributes;
mod class;
mod defaults;
mod hooks;

use proc_macro::TokenStream;
use proc_macro2::{Span, TokenStream as Tokens};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, FnArg, Ident, ImplItem, ImplItemFn, ItemImpl, Receiver, ReceiverKind, Result,
    Safety, Signature, Type,
};

use attributes::{Defaults, Filter, Options};

/// Make a callback of a struct: put it over one `impl` block.
///
/// - Methods named like breakpoints, `fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>)`, are called
///   there. They give nothing or a `Result`. A name that is no breakpoint does not compile.
/// - `#[every(100)]`, `#[once]`, `#[epochs(2, 10)]` or `#[epochs(2, None)]` over such a method say when
///   it is called; several must all hold.
/// - `fn new(...)` is the constructor in Python too (without it, `Default` is);
///   `#[defaults(factor = 3.0)]` over it gives defaults for its arguments.
/// - `fn save(&self)` and `fn load(&mut self, state)` are the state for checkpoints: `Vec<u8>` and
///   `&[u8]`, or, for JSON, `String` and `&str`.
/// - `fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError>` and `fn clear(&mut self)` are for
///   callbacks that hold Python objects: they show the garbage collector what these are, and let go of them.
/// - All other methods are left as they are.
///
/// Options, all of them optional: `#[callback(weight = 10, name = "Spike", after("EarlyStopping"),
/// before("CSVLogger"), logs("spike_ratio"), module = "lossguard")]`. `module` is where Python finds the
/// class; the crate's name unless given.
#[proc_macro_attribute]
pub fn callback(options: TokenStream, block: TokenStream) -> TokenStream {
    expand(options.into(), block.into())
        .unwrap_or_else(Error::into_compile_error)
        .into()
}

/// The names of all breakpoints by number, for the test that holds them against the ABI's.
#[doc(hidden)]
#[proc_macro]
pub fn hook_names(_: TokenStream) -> TokenStream {
    let names = hooks::NAMES;
    quote!(&[#(#names),*]).into()
}

/// What the block says, read once.
struct Block {
    name: Ident,
    hooks: Vec<HookMethod>,
    constructor: Option<Constructor>,
    keeps_state: bool,
    /// When these two methods are there at all.
    state_cfg: Vec<Attribute>,
    /// Whether it shows Python's garbage collector what it holds.
    is_traversed: bool,
}

struct HookMethod {
    name: Ident,
    variant: Ident,
    takes_ctx: bool,
    filters: Vec<Filter>,
    /// When the method is there at all.
    cfg: Vec<Attribute>,
}

struct Constructor {
    arguments: Vec<(Ident, Type)>,
    defaults: Defaults,
}

fn expand(options: Tokens, block: Tokens) -> Result<Tokens> {
    let options: Options = syn::parse2(options)?;
    let mut item: ItemImpl = syn::parse2(block).map_err(|error| {
        let message = "#[callback] goes over the impl block that holds the hook methods";
        Error::new(error.span(), message)
    })?;
    let block = read(&mut item)?;
    let callback = implement(&block, &options);
    let class = if cfg!(feature = "pyo3") {
        class::class(&block, &options, &item.attrs)
    } else {
        Tokens::new()
    };
    Ok(quote!(#item #callback #class))
}

fn read(item: &mut ItemImpl) -> Result<Block> {
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
    let (mut save, mut load) = (None, None);
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
            "save" if method.sig.inputs.len() == 1 && takes(method, false) => {
                save = Some(method.sig.ident.span());
                block.state_cfg = cfg_of(method);
            }
            "load" if method.sig.inputs.len() == 2 && takes(method, true) => {
                load = Some(method.sig.ident.span());
            }
            "save" | "load" => {
                let message = "`save` and `load` are the state for checkpoints: `fn save(&self)` and \
                               `fn load(&mut self, state: &[u8])`; a method for something else needs another \
                               name here, or an impl block of its own";
                return Err(Error::new(method.sig.ident.span(), message));
            }
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
    block.keeps_state = match (save, load) {
        (Some(_), Some(_)) => true,
        (None, None) => false,
        (Some(span), None) => {
            let message = "a state that is saved must be loaded: add `fn load(&mut self, state: &[u8])` \
                           (`&str` where `save` gives a `String`)";
            return Err(Error::new(span, message));
        }
        (None, Some(span)) => {
            let message = "a state that is loaded must be saved: add `fn save(&self) -> Vec<u8>` \
                           (`String` where `load` takes `&str`)";
            return Err(Error::new(span, message));
        }
    };
    Ok(block)
}

/// Whether a method takes `&self`, or where it may change it `&mut self`; and can be called as it is.
fn takes(method: &ImplItemFn, may_change: bool) -> bool {
    let signature = &method.sig;
    let plain = |receiver: &Receiver| match &receiver.kind {
        ReceiverKind::Reference(_, _, changes) => may_change || changes.is_none(),
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
    let last = match method.sig.inputs.last() {
        Some(FnArg::Typed(argument)) => &*argument.ty,
        _ => return false,
    };
    match last {
        Type::Path(path) => path
            .path
            .segments
            .last()
            .is_some_and(|segment| segment.ident == "PyVisit"),
        _ => false,
    }
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

/// The impl of `lumbre_abi::Callback`.
fn implement(block: &Block, options: &Options) -> Tokens {
    let ty = &block.name;
    let name = options
        .name
        .clone()
        .unwrap_or_else(|| ty.unraw().to_string());
    let variants = block.hooks.iter().map(|hook| {
        let (variant, cfg) = (&hook.variant, &hook.cfg);
        quote!(#(#cfg)* ::lumbre_abi::Hook::#variant)
    });
    let filters = block.hooks.iter().flat_map(|hook| {
        let HookMethod { variant, cfg, .. } = hook;
        let tokens = hook.filters.iter().map(|filter| filter.tokens(variant));
        tokens.map(move |filter| quote!(#(#cfg)* #filter))
    });
    let arms = block.hooks.iter().map(|hook| {
        let (method, variant, cfg) = (&hook.name, &hook.variant, &hook.cfg);
        let ctx = hook.takes_ctx.then(|| quote!(ctx));
        // Located at the method for the messages, but of our own hygiene: a `macro_rules!` may have
        // written the method's name, and `self` is not its own.
        let span = Span::call_site().located_at(method.span());
        quote_spanned! {span=>
            #(#cfg)*
            ::lumbre_abi::Hook::#variant =>
                ::lumbre_abi::Outcome::outcome(#ty::#method(self, #ctx)),
        }
    });
    let state_cfg = &block.state_cfg;
    let state = block.keeps_state.then(|| {
        quote! {
            #(#state_cfg)*
            fn save(&self) -> ::lumbre_abi::Result<::lumbre_abi::Saved> {
                ::lumbre_abi::IntoSaved::into_saved(#ty::save(self))
            }
            #(#state_cfg)*
            fn load(&mut self, saved: &::lumbre_abi::Saved) -> ::lumbre_abi::Result<()> {
                let state = ::lumbre_abi::FromSaved::from_saved(saved)?;
                ::lumbre_abi::Outcome::outcome(#ty::load(self, state))
            }
        }
    });
    let weight = options
        .weight
        .as_ref()
        .map(|weight| quote_spanned!(weight.span()=> weight: (#weight) as f64,));
    let texts = |texts: &[String]| quote!(&[#(::lumbre_abi::Name::of(#texts)),*]);
    let (after, before) = (texts(&options.after), texts(&options.before));
    let logs = texts(&options.logs);
    let keeps_state = block.keeps_state;
    // As the attribute would have it, written where only an expression can stand.
    let keeps_state = state_cfg.iter().fold(quote!(#keeps_state), |all, cfg| {
        match cfg.meta.require_list() {
            Ok(list) => {
                let when = &list.tokens;
                quote!(#all && ::core::cfg!(#when))
            }
            Err(_) => all,
        }
    });
    quote! {
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic, trivial_numeric_casts, unused_variables)]
        impl ::lumbre_abi::Callback for #ty {
            const ABOUT: ::lumbre_abi::About = ::lumbre_abi::About {
                crate_name: ::core::env!("CARGO_PKG_NAME"),
                crate_version: ::core::env!("CARGO_PKG_VERSION"),
                #weight
                filters: &[#(#filters),*],
                after: #after,
                before: #before,
                logs: #logs,
                keeps_state: #keeps_state,
                ..::lumbre_abi::About::new(#name, &[#(#variants),*])
            };

            fn call(
                &mut self,
                hook: ::lumbre_abi::Hook,
                ctx: &mut ::lumbre_abi::Ctx<'_>,
            ) -> ::lumbre_abi::Result<()> {
                match hook {
                    #(#arms)*
                    _ => ::core::result::Result::Ok(()),
                }
            }

            #state
        }
    }
}

/// Where the crate is compiled, for the module of its classes.
fn crate_name() -> String {
    std::env::var("CARGO_CRATE_NAME").unwrap_or_else(|_| "builtins".into())
}

/// An identifier that no user writes.
fn hidden(name: &str) -> Ident {
    Ident::new(&format!("__lumbre_{name}"), Span::mixed_site())
}
