//! The Python class around a callback.

use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::{Attribute, Expr, ExprLit, Ident, Lit};

use crate::attributes::Options;
use crate::{Block, Constructor, crate_name, hidden};

/// A `#[pyclass]` that is named like the struct.
pub fn class(block: &Block, options: &Options, attributes: &[Attribute]) -> Tokens {
    let ty = &block.name;
    let name = ty.to_string();
    let module = options.module.clone().unwrap_or_else(crate_name);
    let docs = attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("doc"));
    let new = constructor(block);
    let state = block.keeps_state.then(state);
    let collected = block.is_traversed.then(|| collected(ty));
    let class = hidden("Class");
    quote! {
        #[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub, unused_qualifications)]
        const _: () = {
            use ::lumbre_abi::pyo3;

            #(#docs)*
            #[pyo3::pyclass(
                crate = "::lumbre_abi::pyo3", name = #name, module = #module,
                dict, weakref, subclass, frozen
            )]
            pub struct #class {
                exported: ::lumbre_abi::Exported<#ty>,
                shown: ::std::string::String,
            }

            impl ::lumbre_abi::python::HasClass for #ty {
                type Class = #class;
            }

            #[pyo3::pymethods(crate = "::lumbre_abi::pyo3")]
            impl #class {
                #new

                /// What lumbre asks for: a capsule with the table of version 1 of its callback ABI.
                fn __lumbre_callback__<'py>(
                    &self,
                    py: pyo3::Python<'py>,
                ) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::types::PyCapsule>> {
                    ::lumbre_abi::python::capsule(py, &self.exported)
                }

                fn __repr__(&self) -> &str {
                    &self.shown
                }

                #state

                #collected
            }
        };
    }
}

fn constructor(block: &Block) -> Tokens {
    let ty = &block.name;
    let name = ty.to_string();
    let Some(constructor) = &block.constructor else {
        return quote! {
            #[new]
            fn new() -> pyo3::PyResult<Self> {
                ::core::result::Result::Ok(Self {
                    exported: ::lumbre_abi::python::make(
                        <#ty as ::core::default::Default>::default
                    )?,
                    shown: ::lumbre_abi::python::shown(#name, &[]),
                })
            }
        };
    };
    let names: Vec<&Ident> = constructor.arguments.iter().map(|(name, _)| name).collect();
    let types = constructor.arguments.iter().map(|(_, ty)| ty);
    let texts = names.iter().map(ToString::to_string);
    let signature = names
        .iter()
        .map(|name| match constructor.defaults.value(name) {
            // A text in quotes is good for a `String` too.
            Some(value) if is_text(value) => quote!(#name = ::core::convert::Into::into(#value)),
            Some(value) => quote!(#name = #value),
            None => quote!(#name),
        });
    let signature_text = signature_text(constructor);
    quote! {
        #[new]
        #[pyo3(signature = (#(#signature),*), text_signature = #signature_text)]
        fn new(#(#names: #types),*) -> pyo3::PyResult<Self> {
            let shown = ::lumbre_abi::python::shown(#name, &[#((#texts, &#names)),*]);
            ::core::result::Result::Ok(Self {
                exported: ::lumbre_abi::python::make(move || #ty::new(#(#names),*))?,
                shown,
            })
        }
    }
}

fn state() -> Tokens {
    quote! {
        /// The state for a checkpoint: bytes, or what JSON can hold.
        fn state_dict<'py>(
            &self,
            py: pyo3::Python<'py>,
        ) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
            ::lumbre_abi::python::state_dict(py, &self.exported)
        }

        /// Take up a state that `state_dict` gave.
        fn load_state_dict(&self, state: &pyo3::Bound<'_, pyo3::PyAny>) -> pyo3::PyResult<()> {
            ::lumbre_abi::python::load_state_dict(&self.exported, state)
        }
    }
}

fn collected(ty: &Ident) -> Tokens {
    quote! {
        fn __traverse__(
            &self,
            visit: pyo3::gc::PyVisit<'_>,
        ) -> ::core::result::Result<(), pyo3::gc::PyTraverseError> {
            let seen = self.exported.alone(|callback| #ty::traverse(callback, visit));
            seen.unwrap_or(::core::result::Result::Ok(()))
        }

        fn __clear__(&self) {
            self.exported.alone(|callback| #ty::clear(callback));
        }
    }
}

fn is_text(value: &Expr) -> bool {
    matches!(
        value,
        Expr::Lit(ExprLit {
            lit: Lit::Str(_),
            ..
        })
    )
}

/// The signature as Python's `help` shows it.
fn signature_text(constructor: &Constructor) -> String {
    let argument = |(name, _): &(Ident, _)| match constructor.defaults.value(name) {
        Some(value) => format!("{name}={}", as_python(value)),
        None => name.to_string(),
    };
    let arguments: Vec<String> = constructor.arguments.iter().map(argument).collect();
    format!("({})", arguments.join(", "))
}

fn as_python(value: &Expr) -> String {
    let text = quote!(#value).to_string();
    match value {
        Expr::Lit(ExprLit { lit, .. }) => match lit {
            Lit::Bool(value) if value.value => "True".into(),
            Lit::Bool(_) => "False".into(),
            Lit::Int(number) => number.base10_digits().into(),
            Lit::Float(number) => number.base10_digits().into(),
            _ => text,
        },
        Expr::Unary(_) => text.replace(' ', ""),
        Expr::Path(path) if path.path.is_ident("None") => text,
        _ => "...".into(),
    }
}
