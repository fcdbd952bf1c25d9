"""What input may end in: an answer, or a `UserError` of one sentence."""

from mdtree_jax.checks import UserError


def answer_of(function, *arguments, **settings):
    """Return (answer, None), or (None, message) where the function refuses; any other exception passes through."""
    message = None
    try:
        return function(*arguments, **settings), None
    except UserError as error:
        message = str(error)
    assert message.strip()
    assert len(message.splitlines()) == 1, message
    return None, message
