"""Small networks read token by token on a CPU, by compiled code instead of the library's modules.

weights    configuration and tensors of a network -> its arrays, or what of it is not covered
products   products of a few rows with packed matrices; `functions`: the exponential
network    one token of many lanes through all layers, keys and values in a cache
lanes      many lanes in lockstep, shared out to threads
choice     whether a model is read so: found out by trying
"""
