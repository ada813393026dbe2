"""What should a score be? Any function of a query and a key could say how much one character
attends to another.
"""

max_iters = 300
eval_interval = 50

variants = {
    "dot": {
        "about": "The dot product query · key, through a softmax: attends where both point the "
        "same way.",
        "attention_score": "dot",
    },
    "linear": {
        "about": "Linear attention: the dot product of positive features of query and key, without "
        "a softmax.",
        "attention_score": "linear",
    },
    "squared": {
        "about": "The squared dot product, through a softmax: attends where both point the same or "
        "the opposite way.",
        "attention_score": "squared",
    },
}
