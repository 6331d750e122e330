//! What one ELF file says of itself.

use goblin::elf::dynamic::{DF_1_PIE, DF_STATIC_TLS, DF_SYMBOLIC, DF_TEXTREL, DT_SYMBOLIC, DT_TEXTREL};
use goblin::elf::header::{EM_X86_64, ET_DYN, ET_EXEC};
use goblin::elf::program_header::{PF_W, PT_GNU_RELRO, PT_LOAD, PT_TLS};
use goblin::elf::reloc::{
    R_X86_64_64, R_X86_64_COPY, R_X86_64_DTPMOD64, R_X86_64_DTPOFF64, R_X86_64_GLOB_DAT, R_X86_64_IRELATIVE,
    R_X86_64_JUMP_SLOT, R_X86_64_NONE, R_X86_64_RELATIVE, R_X86_64_TLSDESC, R_X86_64_TPOFF64,
};
use goblin::elf::section_header::SHN_UNDEF;
use goblin::elf::sym::{STB_LOCAL, STT_OBJECT, STV_DEFAULT};
use goblin::elf::{Elf, Sym};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

const PAGE_SIZE: u64 = 4096;

/// A symbol that an object defines.
pub(crate) struct Definition {
    /// Data that the program may name: it is writable, and nobody refers to it otherwise than by symbol.
    pub(crate) is_variable: bool,
}

/// An executable or a shared library.
pub(crate) struct Object {
    pub(crate) path: PathBuf,
    pub(crate) soname: Option<String>,
    /// Of another machine: nothing of the rest is known then.
    pub(crate) foreign_machine: Option<String>,
    pub(crate) is_executable: bool,
    pub(crate) interpreter: Option<PathBuf>,
    pub(crate) needed: Vec<String>,
    pub(crate) rpath: Vec<String>,
    pub(crate) runpath: Vec<String>,
    pub(crate) definitions: HashMap<String, Definition>,
    pub(crate) undefined: Vec<String>,
    /// Names of variables that its code refers to, and that it does not define itself or has copied.
    pub(crate) variables: Vec<String>,
    pub(crate) versions: Vec<String>,
    pub(crate) tls_size_bytes: u64,
    pub(crate) needs_static_tls: bool,
    /// Why the library cannot copy it itself, so that the dynamic linker has to.
    pub(crate) uncopyable: Option<String>,
}

/// Does the dynamic linker of this machine load such a file?
pub(crate) fn is_loadable(path: &Path) -> bool {
    const CLASS_64_LITTLE_ENDIAN: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];
    let mut start = [0; 20];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok()
        && start[..6] == CLASS_64_LITTLE_ENDIAN
        && u16::from_le_bytes([start[18], start[19]]) == EM_X86_64
}

/// Segments that are read only while the program runs.
fn relro(elf: &Elf<'_>) -> Range<u64> {
    let segment = elf.program_headers.iter().find(|segment| segment.p_type == PT_GNU_RELRO);
    segment.map_or(0..0, |segment| {
        segment.p_vaddr / PAGE_SIZE * PAGE_SIZE..(segment.p_vaddr + segment.p_memsz) / PAGE_SIZE * PAGE_SIZE
    })
}

fn is_writable(elf: &Elf<'_>, address: u64) -> bool {
    let mut segments =
        elf.program_headers.iter().filter(|segment| segment.p_type == PT_LOAD && segment.p_flags & PF_W != 0);
    !relro(elf).contains(&address) && segments.any(|segment| segment.vm_range().contains(&(address as usize)))
}

fn has_text_relocations(elf: &Elf<'_>) -> bool {
    elf.dynamic.as_ref().is_some_and(|dynamic| {
        dynamic.info.flags & DF_TEXTREL != 0 || dynamic.dyns.iter().any(|entry| entry.d_tag == DT_TEXTREL)
    })
}

fn unknown_relocation(elf: &Elf<'_>) -> Option<u32> {
    const KNOWN: [u32; 10] = [
        R_X86_64_NONE,
        R_X86_64_RELATIVE,
        R_X86_64_IRELATIVE,
        R_X86_64_64,
        R_X86_64_GLOB_DAT,
        R_X86_64_JUMP_SLOT,
        R_X86_64_DTPMOD64,
        R_X86_64_DTPOFF64,
        R_X86_64_TPOFF64,
        R_X86_64_TLSDESC,
    ];
    let types = elf.dynrelas.iter().chain(elf.pltrelocs.iter()).map(|relocation| relocation.r_type);
    types.into_iter().find(|found| !KNOWN.contains(found))
}

/// Are read-only segments between writable ones?
fn has_text_amid_data(elf: &Elf<'_>) -> bool {
    let pages = |is_data: bool| {
        let loaded = elf.program_headers.iter().filter(|segment| segment.p_type == PT_LOAD);
        let chosen = loaded.filter(move |segment| (segment.p_flags & PF_W != 0) == is_data);
        chosen.map(|segment| {
            let end = segment.p_vaddr + segment.p_memsz;
            segment.p_vaddr / PAGE_SIZE * PAGE_SIZE..end.div_ceil(PAGE_SIZE) * PAGE_SIZE
        })
    };
    let start = pages(true).map(|range| range.start).min().unwrap_or(u64::MAX);
    let end = pages(true).map(|range| range.end).max().unwrap_or(0);
    pages(false).any(|text| text.start < end && text.end > start)
}

fn uncopyable(elf: &Elf<'_>) -> Option<String> {
    if has_text_relocations(elf) {
        return Some("text relocations".into());
    }
    if let Some(kind) = unknown_relocation(elf) {
        return Some(format!("a relocation of unknown type {kind}"));
    }
    has_text_amid_data(elf).then(|| "read-only segments amid its data".into())
}

/// Those that the program's own code may share with libraries: see `is_eligible` in variables.c.
fn is_variable(elf: &Elf<'_>, symbol: &Sym, name: &str, is_symbolic: bool) -> bool {
    symbol.st_type() == STT_OBJECT
        && !is_symbolic
        && symbol.st_visibility() == STV_DEFAULT
        && is_writable(elf, symbol.st_value)
        && !name.starts_with("_IO_2_1_")
        && !name.starts_with("_Z")
}

/// Variables that it refers to: copied into it, or by a word of its global offset table or data.
fn variables(elf: &Elf<'_>) -> Vec<String> {
    let names = elf.dynrelas.iter().filter_map(|relocation| {
        let symbol = elf.dynsyms.get(relocation.r_sym)?;
        let is_reference =
            symbol.st_shndx == SHN_UNDEF as usize && [R_X86_64_GLOB_DAT, R_X86_64_64].contains(&relocation.r_type);
        let name =
            (relocation.r_type == R_X86_64_COPY || is_reference).then(|| elf.dynstrtab.get_at(symbol.st_name))?;
        name.map(String::from)
    });
    let mut names: Vec<_> = names.collect();
    names.sort();
    names.dedup();
    names
}

fn versions(elf: &Elf<'_>) -> Vec<String> {
    let sections = elf.verdef.iter().flat_map(|section| section.iter());
    let names =
        sections.filter_map(|version| version.iter().next().and_then(|name| elf.dynstrtab.get_at(name.vda_name)));
    names.map(String::from).collect()
}

/// Search paths, of which each may hold several.
fn folders(paths: &[&str]) -> Vec<String> {
    paths.iter().flat_map(|path| path.split(':')).map(String::from).collect()
}

impl Object {
    /// Reads a file that need not be ELF.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
        let elf = Elf::parse(&bytes).map_err(|error| format!("not an ELF file: {error}"))?;
        let is_ours = elf.is_64 && elf.little_endian && elf.header.e_machine == EM_X86_64;
        let flags = elf.dynamic.as_ref().map_or(0, |dynamic| dynamic.info.flags);
        let flags_1 = elf.dynamic.as_ref().map_or(0, |dynamic| dynamic.info.flags_1);
        let is_symbolic = flags & DF_SYMBOLIC != 0
            || elf.dynamic.iter().any(|dynamic| dynamic.dyns.iter().any(|entry| entry.d_tag == DT_SYMBOLIC));
        let mut object = Object {
            path: path.to_owned(),
            soname: elf.soname.map(String::from),
            foreign_machine: (!is_ours).then(|| {
                let machine = goblin::elf::header::machine_to_str(elf.header.e_machine).trim_start_matches("EM_");
                format!("{machine}, {} bits", if elf.is_64 { 64 } else { 32 })
            }),
            is_executable: elf.header.e_type == ET_EXEC
                || elf.header.e_type == ET_DYN && (elf.interpreter.is_some() || flags_1 & DF_1_PIE != 0),
            interpreter: elf.interpreter.map(PathBuf::from),
            needed: elf.libraries.iter().map(|name| (*name).to_owned()).collect(),
            rpath: folders(&elf.rpaths),
            runpath: folders(&elf.runpaths),
            definitions: HashMap::new(),
            undefined: Vec::new(),
            variables: if is_ours { variables(&elf) } else { Vec::new() },
            versions: versions(&elf),
            tls_size_bytes: elf
                .program_headers
                .iter()
                .find(|segment| segment.p_type == PT_TLS)
                .map_or(0, |tls| tls.p_memsz),
            needs_static_tls: flags & DF_STATIC_TLS != 0,
            uncopyable: if is_ours { uncopyable(&elf) } else { None },
        };
        for symbol in elf.dynsyms.iter().filter(|symbol| symbol.st_bind() != STB_LOCAL) {
            let Some(name) = elf.dynstrtab.get_at(symbol.st_name) else { continue };
            if symbol.st_shndx == SHN_UNDEF as usize {
                object.undefined.push(name.to_owned());
            } else {
                let is_variable = is_variable(&elf, &symbol, name, is_symbolic);
                object.definitions.insert(name.to_owned(), Definition { is_variable });
            }
        }
        Ok(object)
    }

    /// Its path without folders.
    pub(crate) fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }
}
