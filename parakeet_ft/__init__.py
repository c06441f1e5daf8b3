"""parakeet-ft"""
