//! The Python class around a callback.

use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::ext::IdentExt;
use syn::{Attribute, Ident};

use crate::attributes::Options;
use crate::block::Block;
use crate::{crate_name, defaults, hidden};

/// A `#[pyclass]` that is named like the struct.
pub fn class(block: &Block, options: &Options, attributes: &[Attribute]) -> Tokens {
    let ty = &block.name;
    let name = ty.unraw().to_string();
    let module = options.module.clone().unwrap_or_else(crate_name);
    let docs = attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("doc"));
    let new = constructor(block);
    let state = block.keeps_state.then(|| state(&block.state_cfg));
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
            pub struct #class(::lumbre_abi::python::Held<#ty>);

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
                    ::lumbre_abi::python::capsule(py, &self.0)
                }

                fn __repr__(
                    slf: &pyo3::Bound<'_, Self>,
                ) -> pyo3::PyResult<::std::string::String> {
                    ::lumbre_abi::python::repr(slf.as_any(), &slf.get().0)
                }

                #state

                #collected
            }
        };
    }
}

fn constructor(block: &Block) -> Tokens {
    let ty = &block.name;
    let Some(constructor) = &block.constructor else {
        return quote! {
            #[new]
            fn new(py: pyo3::Python<'_>) -> pyo3::PyResult<Self> {
                let shown = ::std::string::String::new();
                let new = <#ty as ::core::default::Default>::default;
                ::lumbre_abi::python::make(py, shown, new).map(Self)
            }
        };
    };
    let names: Vec<&Ident> = constructor.arguments.iter().map(|(name, _)| name).collect();
    let types = constructor.arguments.iter().map(|(_, ty)| ty);
    let texts = names.iter().map(|name| name.unraw().to_string());
    let signature = constructor.arguments.iter().map(|(name, kind)| {
        let value = constructor.defaults.value(name)?;
        let value = defaults::value(value, kind, ty);
        Some(quote!(#name = #value))
    });
    let signature = signature
        .zip(&names)
        .map(|(default, name)| default.unwrap_or_else(|| quote!(#name)));
    let signature_text = defaults::signature(constructor);
    let (py, shown) = (hidden("py"), hidden("shown"));
    quote! {
        #[new]
        #[pyo3(signature = (#(#signature),*), text_signature = #signature_text)]
        fn new(#py: pyo3::Python<'_>, #(#names: #types),*) -> pyo3::PyResult<Self> {
            let #shown = ::lumbre_abi::python::shown(&[#((#texts, &#names)),*]);
            ::lumbre_abi::python::make(#py, #shown, move || #ty::new(#(#names),*)).map(Self)
        }
    }
}

fn state(cfg: &[Attribute]) -> Tokens {
    quote! {
        #(#cfg)*
        /// The state for a checkpoint: bytes, or what JSON can hold.
        fn state_dict<'py>(
            &self,
            py: pyo3::Python<'py>,
        ) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
            ::lumbre_abi::python::state_dict(py, &self.0)
        }

        #(#cfg)*
        /// Take up a state that `state_dict` gave.
        fn load_state_dict(&self, state: &pyo3::Bound<'_, pyo3::PyAny>) -> pyo3::PyResult<()> {
            ::lumbre_abi::python::load_state_dict(&self.0, state)
        }
    }
}

fn collected(ty: &Ident) -> Tokens {
    quote! {
        fn __traverse__(
            &self,
            visit: pyo3::gc::PyVisit<'_>,
        ) -> ::core::result::Result<(), pyo3::gc::PyTraverseError> {
            let seen = self.0.alone(|callback| #ty::traverse(callback, visit));
            seen.unwrap_or(::core::result::Result::Ok(()))
        }

        fn __clear__(&self) {
            self.0.alone(|callback| #ty::clear(callback));
        }
    }
}
