"""The domain's words as frozen values. Imports nothing of ours; everything may import it.

Units everywhere: money in US dollars, time in seconds, prices in dollars per token, shares and
probabilities in 0..1. Instants are Unix seconds.

What each request makes is `gc=False`: none of it can be part of a cycle, and there are thousands of
such values between a request and its row in the store; walking them cost the collector 13 us a
request.
"""
