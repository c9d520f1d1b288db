//! The attribute `#[callback]` of `lumbre-abi`.

mod attributes;
mod block;
mod class;
mod defaults;
mod hooks;

use proc_macro::TokenStream;
use proc_macro2::{Span, TokenStream as Tokens};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Error, Ident, ItemImpl, Result};

use attributes::Options;
use block::{Block, HookMethod};

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

fn expand(options: Tokens, block: Tokens) -> Result<Tokens> {
    let options: Options = syn::parse2(options)?;
    let mut item: ItemImpl = syn::parse2(block).map_err(|error| {
        let message = "#[callback] goes over the impl block that holds the hook methods";
        Error::new(error.span(), message)
    })?;
    let block = block::read(&mut item)?;
    let callback = implement(&block, &options);
    let class = if cfg!(feature = "pyo3") {
        class::class(&block, &options, &item.attrs)
    } else {
        Tokens::new()
    };
    Ok(quote!(#item #callback #class))
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
