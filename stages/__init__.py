"""The five DVC stages. Each module reads its parameters and inputs, calls the library and writes its outputs."""
