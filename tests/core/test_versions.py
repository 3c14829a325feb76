from autoprune.core.versions import version_of


def test_a_package_that_is_not_installed_has_no_version():
    assert version_of("numpy")
    assert version_of("no-such-package-anywhere") is None
