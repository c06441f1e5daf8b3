"""Raw layouts -> utterances, one file each.

A corpus is read as it stands: audio paths are absolute, text is untouched, `duration` is 0 where
the utterance is the whole file (the length is measured later, whatever a column says), `speaker` is
what the layout knows, and the corpus's own split is the extra field `split`. Nothing is dropped
here: a row without audio or text comes out and gets its reason from the filters.
"""
