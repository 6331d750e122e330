//! `docs/api.txt` lists what the crate offers: each public item that can be reached from `src/lib.rs`, with its signature
//! and its implementations, from the source. A change of it is a change of the interface. `INGER_REGENERATE=1` writes it anew.

use std::collections::BTreeMap;
use std::path::Path;
use syn::punctuated::Punctuated;
use syn::{Attribute, Fields, File, Ident, ImplItem, Item, ItemImpl, Type, UseTree, Visibility};

const PATH: &str = "docs/api.txt";

/// The crate's modules, by name: one file each.
fn parse_modules() -> BTreeMap<String, File> {
    let files = std::fs::read_dir("src").expect("the crate's folder").map(|entry| entry.expect("an entry").path());
    let is_module =
        |path: &Path| path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("main.rs");
    files
        .filter(|path| is_module(path))
        .map(|path| {
            let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).expect("a source file");
            (name, syn::parse_file(&text).expect("it compiles"))
        })
        .collect()
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Those that tell callers something.
fn keep_attributes(attributes: &mut Vec<Attribute>) {
    const KEPT: [&str; 6] = ["cfg", "derive", "must_use", "non_exhaustive", "repr", "unsafe"];
    attributes.retain(|attribute| KEPT.iter().any(|name| attribute.path().is_ident(name)));
}

fn keep_fields(fields: &mut Fields) {
    match fields {
        Fields::Named(named) => {
            let public = std::mem::take(&mut named.named).into_iter().filter(|field| is_public(&field.vis));
            named.named = public.collect::<Punctuated<_, _>>();
            named.named.iter_mut().for_each(|field| keep_attributes(&mut field.attrs));
        }
        Fields::Unnamed(unnamed) => {
            let public = std::mem::take(&mut unnamed.unnamed).into_iter().filter(|field| is_public(&field.vis));
            unnamed.unnamed = public.collect::<Punctuated<_, _>>();
        }
        Fields::Unit => {}
    }
}

/// An item as callers see it, with its name; `None` if they do not.
fn to_declaration(mut item: Item) -> Option<(Ident, Item)> {
    let (name, visibility, attributes) = match &mut item {
        Item::Fn(function) => {
            function.block.stmts.clear();
            (&function.sig.ident, &function.vis, &mut function.attrs)
        }
        Item::Struct(item) => {
            keep_fields(&mut item.fields);
            (&item.ident, &item.vis, &mut item.attrs)
        }
        Item::Enum(item) => {
            for variant in &mut item.variants {
                keep_attributes(&mut variant.attrs);
                variant.fields.iter_mut().for_each(|field| keep_attributes(&mut field.attrs));
            }
            (&item.ident, &item.vis, &mut item.attrs)
        }
        Item::Const(item) => (&item.ident, &item.vis, &mut item.attrs),
        Item::Type(item) => (&item.ident, &item.vis, &mut item.attrs),
        // None is offered so far; listing one takes a decision about its items.
        Item::Static(item) if is_public(&item.vis) => panic!("public static {}", item.ident),
        Item::Trait(item) if is_public(&item.vis) => panic!("public trait {}", item.ident),
        Item::Union(item) if is_public(&item.vis) => panic!("public union {}", item.ident),
        _ => return None,
    };
    let found = (name.clone(), is_public(visibility));
    keep_attributes(attributes);
    found.1.then_some((found.0, item))
}

fn type_name(named: &Type) -> Option<&Ident> {
    match named {
        Type::Path(path) => path.path.segments.last().map(|segment| &segment.ident),
        Type::Reference(reference) => type_name(&reference.elem),
        _ => None,
    }
}

/// Of a trait's, the associated types; of others, what is public; `None` if that is nothing.
fn keep_public(mut block: ItemImpl) -> Option<ItemImpl> {
    let is_trait = block.trait_.is_some();
    block.attrs.clear();
    block.items.retain(|item| match item {
        ImplItem::Fn(function) => !is_trait && is_public(&function.vis),
        ImplItem::Const(constant) => !is_trait && is_public(&constant.vis),
        ImplItem::Type(_) => true,
        _ => false,
    });
    for item in &mut block.items {
        if let ImplItem::Fn(function) = item {
            function.block.stmts.clear();
            keep_attributes(&mut function.attrs);
        }
    }
    (is_trait || !block.items.is_empty()).then_some(block)
}

fn impls_of<'a>(modules: &'a BTreeMap<String, File>, name: &'a Ident) -> impl Iterator<Item = ItemImpl> + 'a {
    let blocks = modules.values().flat_map(|file| &file.items).filter_map(move |item| match item {
        Item::Impl(block) if type_name(&block.self_ty) == Some(name) => Some(block.clone()),
        _ => None,
    });
    blocks.filter_map(keep_public)
}

fn print(item: Item) -> String {
    let text = prettyplease::unparse(&File { shebang: None, attrs: Vec::new(), items: vec![item] });
    text.replace(",\n{}\n", ";\n").replace(",\n    {}\n", ";\n").replace(" {}\n", ";\n")
}

/// What a `use` names, as paths in the crate.
fn used(tree: &UseTree, before: Vec<String>) -> Vec<Vec<String>> {
    match tree {
        UseTree::Path(path) => used(&path.tree, [before, vec![path.ident.to_string()]].concat()),
        UseTree::Name(name) => vec![[before, vec![name.ident.to_string()]].concat()],
        UseTree::Group(group) => group.items.iter().flat_map(|tree| used(tree, before.clone())).collect(),
        UseTree::Rename(_) | UseTree::Glob(_) => panic!("which names are exported is not to be seen"),
    }
}

struct Listing {
    modules: BTreeMap<String, File>,
    /// By path.
    items: BTreeMap<String, String>,
}

impl Listing {
    fn add(&mut self, path: &str, name: &Ident, item: Item) {
        let mut text = print(item);
        let mut blocks: Vec<_> = impls_of(&self.modules, name).map(|block| print(Item::Impl(block))).collect();
        blocks.sort();
        text.extend(blocks);
        assert!(self.items.insert(format!("{path}::{name}"), text).is_none(), "{path}::{name} twice");
    }

    fn add_module(&mut self, path: &str, file: &str) {
        let file = self.modules.get(file).unwrap_or_else(|| panic!("no file of module {file}")).clone();
        for item in file.items {
            match item {
                Item::Mod(module) if is_public(&module.vis) => {
                    let name = module.ident.to_string();
                    self.add_module(&format!("{path}::{name}"), &name);
                }
                Item::Use(names) if is_public(&names.vis) => {
                    used(&names.tree, Vec::new()).iter().for_each(|name| self.add_used(path, name));
                }
                other => {
                    if let Some((name, item)) = to_declaration(other) {
                        self.add(path, &name, item);
                    }
                }
            }
        }
    }

    fn add_used(&mut self, path: &str, names: &[String]) {
        let [module, name] = names else { panic!("{names:?}: not an item of a module") };
        let items = self.modules[module].items.clone();
        let found = items.into_iter().filter_map(to_declaration).find(|(found, _)| found == name);
        let (name, item) = found.unwrap_or_else(|| panic!("no public {name} in {module}"));
        self.add(path, &name, item);
    }
}

fn generate() -> String {
    let mut listing = Listing { modules: parse_modules(), items: BTreeMap::new() };
    listing.add_module("inger", "lib");
    listing.items.iter().map(|(path, text)| format!("// {path}\n{text}\n")).collect::<String>().trim_end().to_owned()
        + "\n"
}

#[test]
fn listing_is_current() {
    let generated = generate();
    if std::env::var_os("INGER_REGENERATE").is_some() {
        std::fs::write(PATH, &generated).expect("the listing can be written");
    }
    let committed = std::fs::read_to_string(PATH).expect("the listing is committed");
    assert!(committed == generated, "{PATH} is stale: INGER_REGENERATE=1 cargo test --test api");
}

/// What users write is in it; private parts are not.
#[test]
fn listing_holds_the_interface() {
    let listing = generate();
    for (public, expected) in [
        ("pub fn launch<'a, T, F>(function: F, budget_us: u64) -> Result<Linger<'a, T>, Error>", true),
        ("// inger::future::PreemptiveFuture", true),
        ("// inger::ffi::linger_launch", true),
        ("impl std::error::Error for Error", true),
        ("pub unsafe fn reclaim(self)", true),
        ("BracketGuard", false),
        ("pub(crate)", false),
    ] {
        assert_eq!(listing.contains(public), expected, "{public}");
    }
}
