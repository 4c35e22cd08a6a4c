//! kernel
mod btf;
pub mod load;
mod sys;
/// errors
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("built without its eBPF object; run: cargo xtask build")]
    NoObject,
    #[error("cannot load the eBPF object: {0}")]
    Load(String),
    #[error("no program {0}")]
    NoProgram(&'static str),
    #[error("no map {0}")]
    NoMap(&'static str),
    #[error("map {name} {error}")]
    MapType { name: &'static str, error: String },
    #[error("{program}: {log}")]
    Verifier { program: &'static str, log: String },
}
#[cfg(test)]
mod tests {
    #[test]
    fn loads() {
        std::fs::create_dir_all("/sys/fs/bpf/mzebpf-t").expect("dir");
        let r = super::load::load(std::path::Path::new("/sys/fs/bpf/mzebpf-t"));
        if let Err(e) = r {
            let t = e.to_string();
            let n = t.len();
            println!("{}", &t[..n.min(600)]);
            println!("....{}", &t[n.saturating_sub(3500)..]);
            panic!("load")
        }
    }
}
